//! What Redis does in one step. Times are the server's; numbers that are compared have twenty digits, so that
//! comparing the texts compares the numbers. Each script touches one key.

use redis::Script;

/// The scripts, hashed once.
pub(super) struct Scripts {
    /// Holds a daemon unless another has the better right. Returns the id of the relay that has it, or nothing.
    ///
    /// ARGV: relay, connection, generation, age in µs, life in ms, record, and our own earlier connections.
    pub(super) claim: Script,
    /// Lets go what is ours. ARGV: relay, connections.
    pub(super) release: Script,
    /// Puts a member into a roster. ARGV: member, age in ms, life in ms, record.
    pub(super) enlist: Script,
    /// The members of a roster that live: records, each after twenty digits of its beginning.
    pub(super) roster: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(CLAIM),
            release: Script::new(RELEASE),
            enlist: Script::new(ENLIST),
            roster: Script::new(ROSTER),
        }
    }
}

const CLAIM: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local since = string.format('%020d', math.max(0, now - tonumber(ARGV[4])))
local held = redis.call('HMGET', KEYS[1], 'relay', 'connection', 'generation', 'since')
if held[1] then
  local ours = false
  if held[1] == ARGV[1] then
    if held[2] == ARGV[2] then
      ours = true
      since = held[4]
    end
    for i = 7, #ARGV do
      if held[2] == ARGV[i] then ours = true end
    end
  end
  if not ours then
    local better = held[3] > ARGV[3]
    if held[3] == ARGV[3] then
      better = held[4] > since or (held[4] == since and held[2] > ARGV[2])
    end
    if better then return held[1] end
  end
end
redis.call('HSET', KEYS[1], 'relay', ARGV[1], 'connection', ARGV[2], 'generation', ARGV[3],
  'since', since, 'record', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return false
";

const RELEASE: &str = r"
local held = redis.call('HMGET', KEYS[1], 'relay', 'connection')
if held[1] == ARGV[1] then
  for i = 2, #ARGV do
    if held[2] == ARGV[i] then return redis.call('DEL', KEYS[1]) end
  end
end
return 0
";

const ENLIST: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if (tonumber(string.sub(all[i + 1], 1, 20)) or 0) <= now then redis.call('HDEL', KEYS[1], all[i]) end
end
local until_ = string.format('%020d', now + tonumber(ARGV[3]))
local since = string.format('%020d', math.max(0, now - tonumber(ARGV[2])))
redis.call('HSET', KEYS[1], ARGV[1], until_ .. since .. ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
";

const ROSTER: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local live = {}
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  if (tonumber(string.sub(value, 1, 20)) or 0) > now then live[#live + 1] = string.sub(value, 21) end
end
return live
";

/// A number as text that compares as the number does.
pub(super) fn ordered(number: i64) -> String {
    let shifted = i128::from(number) - i128::from(i64::MIN);
    format!("{shifted:020}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_compare_as_their_numbers(left in any::<i64>(), right in any::<i64>()) {
            prop_assert_eq!(ordered(left).cmp(&ordered(right)), left.cmp(&right));
        }
    }

    #[test]
    fn they_all_have_twenty_digits() {
        for number in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert_eq!(ordered(number).len(), 20);
        }
    }
}

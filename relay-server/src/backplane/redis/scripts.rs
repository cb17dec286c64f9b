//! What Redis does in one step. Times are the server's; numbers that are compared have twenty digits, so that
//! comparing the texts compares the numbers. Each script touches one key, and none stumbles over what somebody else put
//! there.

use redis::Script;

use crate::backplane::address::MAX_RECORD;

/// The scripts, hashed once.
pub(super) struct Scripts {
    /// What is written of a daemon, as bytes, after the time in ms. What cannot be such a thing is as nothing.
    pub(super) look: Script,
    /// Replaces what `look` found. ARGV: what was found, what comes instead (nothing: it is removed), life in ms.
    /// Returns whether that was still there.
    pub(super) swap: Script,
    /// Puts a member into a roster. ARGV: member, age in ms, life in ms, record.
    pub(super) enlist: Script,
    /// The members of a roster that live: records, each after twenty digits of its beginning.
    pub(super) roster: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let there = THERE.replace("LONGEST", &MAX_RECORD.to_string());
        Self {
            look: Script::new(&format!("{there}{LOOK}")),
            swap: Script::new(&format!("{there}{SWAP}")),
            enlist: Script::new(ENLIST),
            roster: Script::new(ROSTER),
        }
    }
}

/// Whoever can write to Redis may have put anything there, of any type and length.
const THERE: &str = r"
local there = ''
if redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('STRLEN', KEYS[1]) <= LONGEST then
  there = redis.call('GET', KEYS[1])
end
";

const LOOK: &str = r"
local time = redis.call('TIME')
return {tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), there}
";

const SWAP: &str = r"
if there ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
";

const ENLIST: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
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
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return live end
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  if (tonumber(string.sub(value, 1, 20)) or 0) > now then live[#live + 1] = string.sub(value, 21) end
end
return live
";

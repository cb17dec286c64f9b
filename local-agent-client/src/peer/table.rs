//! Which peers there are, and who has to go for another (PROTOCOL.md section 6.1). Pure.

use uuid::Uuid;

/// Peers of one browser; one more ends its oldest. A browser needs one for each window that holds a
/// connection, and leaves some behind when it reloads.
pub const PER_BROWSER: usize = 4;
/// Peers of one agent; one more is refused. Each has sockets, and up to some megabytes of buffers.
pub const PER_AGENT: usize = 32;

/// Whose a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The paired browser.
    pub browser: Uuid,
    /// Its session that asked for the peer.
    pub session: Uuid,
}

/// As many peers as an agent may have.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
struct Row<P> {
    id: Uuid,
    owner: Owner,
    peer: P,
}

/// Every peer, oldest first.
#[derive(Debug)]
pub struct Table<P> {
    rows: Vec<Row<P>>,
}

impl<P> Default for Table<P> {
    fn default() -> Self {
        Self { rows: Vec::new() }
    }
}

impl<P> Table<P> {
    /// Enters a peer, and takes out the one that has to go for it, if any.
    ///
    /// # Errors
    /// [`Full`] when every place is taken by others.
    pub fn enter(&mut self, id: Uuid, owner: Owner, peer: P) -> Result<Option<P>, Full> {
        let of_browser = self.rows.iter().filter(|row| row.owner.browser == owner.browser).count();
        let gone = if of_browser >= PER_BROWSER {
            self.take_oldest(owner.browser)
        } else if self.rows.len() >= PER_AGENT {
            return Err(Full);
        } else {
            None
        };
        self.rows.push(Row { id, owner, peer });
        Ok(gone)
    }

    fn take_where(&mut self, what: impl FnMut(&Row<P>) -> bool) -> Option<P> {
        let at = self.rows.iter().position(what)?;
        Some(self.rows.remove(at).peer)
    }

    /// A browser's own peer, of whichever session: sealed ones follow one another while a peer goes on.
    /// Another's does not exist for it.
    pub fn find(&self, id: Uuid, browser: Uuid) -> Option<&P> {
        self.rows.iter().find(|row| row.id == id && row.owner.browser == browser).map(|row| &row.peer)
    }

    /// Takes out a browser's own peer, of whichever session.
    pub fn take(&mut self, id: Uuid, browser: Uuid) -> Option<P> {
        self.take_where(|row| row.id == id && row.owner.browser == browser)
    }

    /// Takes out a browser's oldest.
    pub fn take_oldest(&mut self, browser: Uuid) -> Option<P> {
        self.take_where(|row| row.owner.browser == browser)
    }

    /// Takes out a peer that has ended.
    pub fn forget(&mut self, id: Uuid) -> Option<P> {
        self.take_where(|row| row.id == id)
    }

    /// Takes out all.
    pub fn clear(&mut self) -> impl Iterator<Item = P> + use<P> {
        std::mem::take(&mut self.rows).into_iter().map(|row| row.peer)
    }

    /// Every peer with its id and owner, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (Uuid, Owner, &P)> {
        self.rows.iter().map(|row| (row.id, row.owner, &row.peer))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(browser: u128, session: u128) -> Owner {
        Owner { browser: Uuid::from_u128(browser), session: Uuid::from_u128(session) }
    }

    fn id(n: usize) -> Uuid {
        Uuid::from_u128(n as u128)
    }

    #[test]
    fn one_more_of_a_browser_ends_its_oldest() {
        let mut table = Table::default();
        for n in 0..PER_BROWSER {
            assert_eq!(table.enter(id(n), owner(1, n as u128), n), Ok(None));
        }
        assert_eq!(table.enter(id(50), owner(2, 1), 50), Ok(None), "another browser's places are its own");
        assert_eq!(table.enter(id(60), owner(1, 9), 60), Ok(Some(0)));
        assert_eq!(table.enter(id(61), owner(1, 9), 61), Ok(Some(1)));
        assert_eq!(table.len(), PER_BROWSER + 1);
    }

    #[test]
    fn the_agent_is_full_for_those_who_have_nothing_to_give_up() {
        let mut table = Table::default();
        for n in 0..PER_AGENT {
            assert_eq!(table.enter(id(n), owner((n / PER_BROWSER) as u128, 0), n), Ok(None));
        }
        assert_eq!(table.enter(id(90), owner(77, 0), 90), Err(Full));
        assert_eq!(table.enter(id(91), owner(0, 0), 91), Ok(Some(0)), "its own oldest makes room");
        assert_eq!(table.len(), PER_AGENT);
        assert_eq!(table.forget(id(31)), Some(31));
        assert_eq!(table.enter(id(90), owner(77, 0), 90), Ok(None));
    }

    #[test]
    fn a_peer_exists_for_its_browser_alone() {
        let mut table = Table::default();
        table.enter(id(1), owner(1, 1), 1).unwrap();
        assert_eq!(table.find(id(1), Uuid::from_u128(1)), Some(&1));
        assert_eq!(table.find(id(1), Uuid::from_u128(2)), None, "another browser");
        assert_eq!(table.find(id(2), Uuid::from_u128(1)), None, "another peer");
        assert_eq!(table.take(id(1), Uuid::from_u128(2)), None);
        assert_eq!(table.take_oldest(Uuid::from_u128(2)), None);
        table.enter(id(2), owner(1, 1), 2).unwrap();
        assert_eq!(table.take_oldest(Uuid::from_u128(1)), Some(1));
        assert_eq!(table.take(id(1), Uuid::from_u128(1)), None);
        assert_eq!(table.take(id(2), Uuid::from_u128(1)), Some(2));
        assert_eq!(table.forget(id(1)), None);
        assert!(table.is_empty());
    }
}

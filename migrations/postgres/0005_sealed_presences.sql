-- Who holds a daemon counts only as its relay has sealed it: whoever can write to this table cannot take a daemon away
-- from anybody. The other columns are for people who look.
alter table relay.workspace_relay_presences add column record text;

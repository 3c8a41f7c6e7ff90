-- SPDX-License-Identifier: Apache-2.0
--
-- Optional: tell splitmx at once when recipients change in PostgreSQL.
--
--     psql -v table=recipients -v address=address -f notify.sql mail
--
-- `table` is the table that holds the recipients, `address` its column. Run it once for each such table (a
-- PostfixAdmin site: mailbox with address=username, and alias with address=address).
--
-- splitmx listens on the channel `splitmx` of every PostgreSQL directory; it needs no key and no grant for that. The
-- payload names the addresses that changed, and splitmx reads those again at once, so that a move, a suspension and a
-- removal become answers within a second, and a column `changed` is not needed. When more than 100 change in one
-- statement (or the names do not fit) the payload is empty, and the table is compared instead. Any other program may
-- say the same: NOTIFY splitmx, 'bob@example.com' or only NOTIFY splitmx.
--
-- What it costs: PostgreSQL takes one lock per database while a transaction that notified commits, so these
-- transactions commit one after another. For a table that changes some hundred times a second, do without. A
-- read-only standby cannot LISTEN: splitmx then goes on as if this were not here. On a subscriber of logical
-- replication these triggers do not fire: install this at the publisher, and let splitmx read there.
--
-- To take it out again:
--     DROP TRIGGER splitmx_insert ON recipients;   (also splitmx_update, splitmx_delete, splitmx_truncate)
--     DROP FUNCTION splitmx_notify();

\if :{?table} \else \set table recipients \endif
\if :{?address} \else \set address address \endif

CREATE OR REPLACE FUNCTION splitmx_notify() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    named text[];
    payload text := '';
BEGIN
    IF TG_OP = 'INSERT' THEN
        EXECUTE format('SELECT array_agg(a) FROM (SELECT %1$I::text AS a FROM splitmx_new LIMIT 101) n', TG_ARGV[0])
            INTO named;
    ELSIF TG_OP = 'DELETE' THEN
        EXECUTE format('SELECT array_agg(a) FROM (SELECT %1$I::text AS a FROM splitmx_old LIMIT 101) n', TG_ARGV[0])
            INTO named;
    ELSIF TG_OP = 'UPDATE' THEN
        EXECUTE format(
            'SELECT array_agg(a) FROM (SELECT %1$I::text AS a FROM splitmx_old UNION SELECT %1$I::text FROM splitmx_new'
            ' LIMIT 101) n', TG_ARGV[0]) INTO named;
    END IF;
    IF TG_OP <> 'TRUNCATE' AND named IS NULL THEN
        RETURN NULL;  -- a statement that changed no row
    END IF;
    IF cardinality(named) <= 100 THEN
        payload := array_to_string(named, E'\n');
        IF octet_length(payload) > 7900 THEN  -- PostgreSQL's limit is 8000
            payload := '';
        END IF;
    END IF;
    PERFORM pg_notify('splitmx', payload);
    RETURN NULL;
END
$$;

DROP TRIGGER IF EXISTS splitmx_insert ON :"table";
DROP TRIGGER IF EXISTS splitmx_update ON :"table";
DROP TRIGGER IF EXISTS splitmx_delete ON :"table";
DROP TRIGGER IF EXISTS splitmx_truncate ON :"table";

CREATE TRIGGER splitmx_insert AFTER INSERT ON :"table"
    REFERENCING NEW TABLE AS splitmx_new
    FOR EACH STATEMENT EXECUTE FUNCTION splitmx_notify(:'address');
CREATE TRIGGER splitmx_update AFTER UPDATE ON :"table"
    REFERENCING OLD TABLE AS splitmx_old NEW TABLE AS splitmx_new
    FOR EACH STATEMENT EXECUTE FUNCTION splitmx_notify(:'address');
CREATE TRIGGER splitmx_delete AFTER DELETE ON :"table"
    REFERENCING OLD TABLE AS splitmx_old
    FOR EACH STATEMENT EXECUTE FUNCTION splitmx_notify(:'address');
CREATE TRIGGER splitmx_truncate AFTER TRUNCATE ON :"table"
    FOR EACH STATEMENT EXECUTE FUNCTION splitmx_notify(:'address');

-- A database for from-sqlite, to try it:
--
--     sqlite3 /var/lib/inventory/inventory.sqlite < inventory.sql

CREATE TABLE hosts (
    hostname TEXT PRIMARY KEY,        -- what clients call it
    address TEXT NOT NULL,            -- name or number to connect to
    port INTEGER,                     -- 4306 unless it says otherwise
    user TEXT NOT NULL DEFAULT 'harpcaller',
    password TEXT NOT NULL,
    cert_sha256 TEXT,                 -- fingerprint; without it, see harpcallerd trust
    active INTEGER NOT NULL DEFAULT 1
);

INSERT INTO hosts (hostname, address, port, password, cert_sha256, active) VALUES
    ('web01', '192.0.2.11', NULL, 'a secret of web01', NULL, 1),
    ('web02', '192.0.2.12', 4307, 'a secret of web02',
     'b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c', 1),
    ('old07', '192.0.2.99', NULL, 'a secret of old07', NULL, 0);

-- Identities of one register. state: 0 free, 1 reserved, 2 assigned, 3 retired.
CREATE TABLE IF NOT EXISTS identity (
    imsi        TEXT PRIMARY KEY,
    state       INTEGER NOT NULL,
    change      INTEGER,
    card        BLOB,
    msisdn      TEXT,
    algorithm   INTEGER NOT NULL,
    -- Whether the keys came with the identity, or are drawn for each change.
    keys_fixed  INTEGER NOT NULL,
    -- K and OPc, a record of the vault; empty: none.
    keys        BLOB NOT NULL,
    access      INTEGER NOT NULL DEFAULT 0,
    -- Access was taken away: only retirement comes after it.
    withdrawn   INTEGER NOT NULL DEFAULT 0,
    -- Names of the network elements where it is attached for calls and for data; empty: none.
    attached_cs TEXT NOT NULL DEFAULT '',
    attached_ps TEXT NOT NULL DEFAULT '',
    -- Whether the platform has acknowledged that it attached.
    reported    INTEGER NOT NULL DEFAULT 0,
    -- SEQ that may have been used: the next one is above it.
    seq_limit   INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS identity_free ON identity (imsi) WHERE state = 0;
CREATE INDEX IF NOT EXISTS identity_state ON identity (state);
CREATE INDEX IF NOT EXISTS identity_number ON identity (msisdn);
CREATE INDEX IF NOT EXISTS identity_unreported ON identity (imsi) WHERE access = 1 AND reported = 0;

-- What every change has had. A change that was released stays: a late reservation finds it.
CREATE TABLE IF NOT EXISTS change (
    id       INTEGER PRIMARY KEY,
    card     BLOB,
    imsi     TEXT,
    released INTEGER NOT NULL DEFAULT 0
);

-- Numbers drawn in the name of nobody: an identity that is not here costs a question what another one does.
CREATE TABLE IF NOT EXISTS nobody (
    id        INTEGER PRIMARY KEY,
    seq_limit INTEGER NOT NULL
);
INSERT OR IGNORE INTO nobody VALUES (0, 0);

-- IND of every user of vectors (3GPP TS 33.102, C.3.4).
CREATE TABLE IF NOT EXISTS vector_user (
    name TEXT PRIMARY KEY,
    ind  INTEGER NOT NULL
) WITHOUT ROWID;

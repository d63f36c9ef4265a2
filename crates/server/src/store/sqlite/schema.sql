-- One file per group of buckets, and one for the platform; all have the same tables.
-- Times are epoch milliseconds (-1: never), card ids and keys are bytes, `bucket` is in the key of everything that
-- belongs to a card. IMSI and MSISDN are numbers with a 1 in front, so that leading zeros survive.

CREATE TABLE IF NOT EXISTS meta (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS lease (
  one   INTEGER PRIMARY KEY CHECK (one = 1),
  owner TEXT NOT NULL,
  epoch INTEGER NOT NULL
);

-- What changes rarely. The ICCID or EID that the card id is made from is not repeated.
CREATE TABLE IF NOT EXISTS card (
  bucket              INTEGER NOT NULL,
  card                BLOB NOT NULL,
  tenant              INTEGER NOT NULL,
  iccid               BLOB,
  eid                 BLOB,
  imsi                INTEGER,
  msisdn              INTEGER,
  psk_identity        BLOB,
  key_version         INTEGER NOT NULL,
  sealed_ota          BLOB,
  sealed_psk          BLOB,
  sealed_subscription BLOB,
  sealed_admin_code   BLOB,
  PRIMARY KEY (bucket, card)
) WITHOUT ROWID;

-- What changes with every contact: narrow.
CREATE TABLE IF NOT EXISTS card_hot (
  bucket       INTEGER NOT NULL,
  card         BLOB NOT NULL,
  operator     INTEGER NOT NULL,
  profile      INTEGER NOT NULL,
  state        INTEGER NOT NULL,
  device_kind  INTEGER NOT NULL,
  tags         INTEGER NOT NULL,
  last_update  INTEGER NOT NULL,
  next_poll    INTEGER NOT NULL,
  applied_base INTEGER NOT NULL,
  applied_mask INTEGER NOT NULL,
  PRIMARY KEY (bucket, card)
) WITHOUT ROWID;

-- The order of campaigns. The operator comes before the order column, and the rest of the row is covered.
-- A second one for the order by last update is made when the first campaign asks for it.
CREATE INDEX IF NOT EXISTS card_by_next_poll ON card_hot
  (bucket, operator, next_poll DESC, card, profile, state, device_kind, tags, last_update, applied_base, applied_mask);

CREATE TABLE IF NOT EXISTS card_counter (
  bucket  INTEGER NOT NULL,
  card    BLOB NOT NULL,
  key_set INTEGER NOT NULL,
  counter INTEGER NOT NULL,
  PRIMARY KEY (bucket, card, key_set)
) WITHOUT ROWID;

-- In the file of the alias, not of the card. Kinds: 1 ICCID, 2 EID, 3 IMSI, 4 MSISDN, 5 PSK identity, 6 fingerprint.
CREATE TABLE IF NOT EXISTS card_alias (
  kind  INTEGER NOT NULL,
  alias BLOB NOT NULL,
  card  BLOB NOT NULL,
  PRIMARY KEY (kind, alias)
) WITHOUT ROWID;

-- One row is outbox, receipt map and proof map at once. States below 5 are open.
CREATE TABLE IF NOT EXISTS packet (
  bucket       INTEGER NOT NULL,
  card         BLOB NOT NULL,
  key_set      INTEGER NOT NULL,
  counter      INTEGER NOT NULL,
  origin       INTEGER NOT NULL,
  origin_id    INTEGER,
  tar          INTEGER NOT NULL,
  spi          INTEGER NOT NULL,
  state        INTEGER NOT NULL,
  state_detail INTEGER NOT NULL,
  at           INTEGER NOT NULL,
  deadline     INTEGER NOT NULL,
  message_ids  TEXT,
  data         BLOB,
  PRIMARY KEY (bucket, card, key_set, counter)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS packet_open ON packet (bucket, card, key_set, counter, deadline) WHERE state < 5;
-- Oldest first, so that upkeep never reads what it keeps; rows come in nearly this order, at the end of the tree.
CREATE INDEX IF NOT EXISTS packet_closed ON packet (deadline) WHERE state >= 5;

CREATE TABLE IF NOT EXISTS exception (
  bucket   INTEGER NOT NULL,
  card     BLOB NOT NULL,
  campaign INTEGER NOT NULL,
  status   INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  step     INTEGER NOT NULL,
  retry_at INTEGER NOT NULL,
  PRIMARY KEY (bucket, card, campaign)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS exception_due ON exception (bucket, campaign, status, retry_at, card);

-- What lasts on one card: kind 0 a change of operator, 1 a delivery. Ids are numbers with the highest bit inverted, so
-- that they keep their order. Rows are long and have a row id.
CREATE TABLE IF NOT EXISTS card_case (
  bucket  INTEGER NOT NULL,
  card    BLOB NOT NULL,
  kind    INTEGER NOT NULL,
  id      INTEGER NOT NULL,
  tenant  INTEGER NOT NULL,
  at      INTEGER NOT NULL,
  state   INTEGER NOT NULL,
  open    INTEGER NOT NULL,
  due     INTEGER,
  version INTEGER NOT NULL,
  body    BLOB NOT NULL,
  sealed  BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS card_case_id ON card_case (kind, id);
CREATE INDEX IF NOT EXISTS card_case_by_id ON card_case (kind, bucket, id);
CREATE INDEX IF NOT EXISTS card_case_of_card ON card_case (bucket, card, kind, at, id);
CREATE INDEX IF NOT EXISTS card_case_open_by_id ON card_case (kind, bucket, id) WHERE open = 1;
CREATE INDEX IF NOT EXISTS card_case_closed ON card_case (at) WHERE open = 0 AND kind = 1;

-- Identities that a card has and had; 0 is the one of its import. No rows: it never changed.
CREATE TABLE IF NOT EXISTS card_identity (
  bucket   INTEGER NOT NULL,
  card     BLOB NOT NULL,
  sequence INTEGER NOT NULL,
  since    INTEGER,
  imsi     INTEGER,
  msisdn   INTEGER,
  operator INTEGER NOT NULL,
  change   INTEGER,
  PRIMARY KEY (bucket, card, sequence)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS history (
  bucket   INTEGER NOT NULL,
  card     BLOB NOT NULL,
  at       INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  cause    INTEGER NOT NULL,
  key_set  INTEGER,
  counter  INTEGER,
  campaign INTEGER,
  result   INTEGER NOT NULL,
  status   INTEGER,
  detail   TEXT,
  PRIMARY KEY (bucket, card, at, sequence)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS history_by_time ON history (at);

CREATE TABLE IF NOT EXISTS progress (
  bucket          INTEGER NOT NULL,
  campaign        INTEGER NOT NULL,
  done_by_poll    INTEGER NOT NULL,
  done_by_trigger INTEGER NOT NULL,
  done_by_command INTEGER NOT NULL,
  failed          INTEGER NOT NULL,
  interrupted     INTEGER NOT NULL,
  triggers        INTEGER NOT NULL,
  passed_over     INTEGER NOT NULL,
  done_by_change  INTEGER NOT NULL,
  declined        INTEGER NOT NULL,
  refused         INTEGER NOT NULL,
  reverted        INTEGER NOT NULL,
  cancelled       INTEGER NOT NULL,
  not_possible    INTEGER NOT NULL,
  PRIMARY KEY (bucket, campaign)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS campaign_cursor (
  bucket    INTEGER NOT NULL,
  campaign  INTEGER NOT NULL,
  operator  INTEGER NOT NULL,
  pass      INTEGER NOT NULL,
  order_key INTEGER,
  card      BLOB,
  exhausted INTEGER NOT NULL,
  PRIMARY KEY (bucket, campaign, operator)
) WITHOUT ROWID;

-- From here on: the platform's file only.

CREATE TABLE IF NOT EXISTS campaign (
  id            INTEGER PRIMARY KEY,
  tenant        INTEGER NOT NULL,
  number        INTEGER,
  name          TEXT NOT NULL,
  state         TEXT NOT NULL,
  definition    TEXT NOT NULL,
  progress_note TEXT NOT NULL,
  created_at    INTEGER NOT NULL,
  started_at    INTEGER,
  ended_at      INTEGER
);

CREATE TABLE IF NOT EXISTS tenant (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS operator (
  id       INTEGER PRIMARY KEY,
  tenant   INTEGER NOT NULL,
  name     TEXT NOT NULL,
  settings TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS agreement (
  from_operator INTEGER NOT NULL,
  to_operator   INTEGER NOT NULL,
  terms         TEXT NOT NULL,
  PRIMARY KEY (from_operator, to_operator)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS profile (id INTEGER PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tag (
  tenant INTEGER NOT NULL,
  bit    INTEGER NOT NULL,
  name   TEXT NOT NULL,
  PRIMARY KEY (tenant, bit)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS device_kind (code INTEGER PRIMARY KEY, name TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS audit (
  sequence INTEGER PRIMARY KEY,
  chain    BLOB NOT NULL,
  at       INTEGER NOT NULL,
  tenant   INTEGER NOT NULL,
  actor    TEXT NOT NULL,
  action   TEXT NOT NULL,
  object   TEXT NOT NULL,
  detail   TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS idempotency (
  tenant       INTEGER NOT NULL,
  key          TEXT NOT NULL,
  request_hash BLOB NOT NULL,
  status       INTEGER NOT NULL,
  body         TEXT NOT NULL,
  at           INTEGER NOT NULL,
  PRIMARY KEY (tenant, key)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS import_job (
  id           BLOB PRIMARY KEY,
  tenant       INTEGER NOT NULL,
  name         TEXT NOT NULL,
  rows_settled INTEGER NOT NULL,
  imported     INTEGER NOT NULL,
  unchanged    INTEGER NOT NULL,
  refused      INTEGER NOT NULL,
  finished     INTEGER NOT NULL,
  at           INTEGER NOT NULL
) WITHOUT ROWID;

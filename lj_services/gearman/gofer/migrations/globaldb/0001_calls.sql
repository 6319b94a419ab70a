-- Calls that were committed, with their answers, so that one whose worker died between
-- COMMIT and the answer is answered and not done a second time.  A call's name starts
-- with the second of its making, in hexadecimal; the gofer removes old ones.
CREATE TABLE IF NOT EXISTS gofer_call (
    callid CHAR(32) NOT NULL,
    answer TEXT,
    PRIMARY KEY (callid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

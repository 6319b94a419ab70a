-- Background jobs of Gearman servers, until they are done.
-- A server is known by its handle prefix; a job's handle is that, a colon, and its number.
CREATE TABLE IF NOT EXISTS gearman_server (
    name VARCHAR(64) NOT NULL,
    incarnation INTEGER NOT NULL,
    newest BIGINT NOT NULL,
    writes BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (name)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- run_at: seconds of the epoch before which the job must not run; 0: none.
CREATE TABLE IF NOT EXISTS gearman_job (
    server VARCHAR(64) NOT NULL,
    number BIGINT NOT NULL,
    function VARBINARY(512) NOT NULL,
    uniq VARBINARY(64) NOT NULL,
    reducer VARBINARY(512) NULL,
    priority SMALLINT NOT NULL,
    run_at DOUBLE NOT NULL,
    data LONGBLOB NOT NULL,
    PRIMARY KEY (server, number)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

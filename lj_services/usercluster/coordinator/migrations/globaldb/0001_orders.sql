-- What operators have ordered the coordinator to do, and which one rules.
-- Times are milliseconds since 1970 (UTC) by the clock of this database.
CREATE TABLE IF NOT EXISTS mover_coordinator (
    id INTEGER /*! UNSIGNED */ NOT NULL,
    term INTEGER /*! UNSIGNED */ NOT NULL,
    name VARCHAR(100) NOT NULL,
    address VARCHAR(100) NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS mover_pause (
    scope VARCHAR(20) NOT NULL,
    reason VARCHAR(200) NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (scope)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS mover_limit (
    scope VARCHAR(20) NOT NULL,
    name VARCHAR(20) NOT NULL,
    value DOUBLE NOT NULL,
    PRIMARY KEY (scope, name)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

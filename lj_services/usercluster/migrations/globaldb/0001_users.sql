-- Who exists and where they live, and the site-wide numberspaces.
CREATE TABLE IF NOT EXISTS user (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    name VARCHAR(25) NOT NULL,
    state VARCHAR(10) NOT NULL,
    clusterid INTEGER /*! UNSIGNED */ NOT NULL,
    epoch INTEGER /*! UNSIGNED */ NOT NULL,
    readonly BOOLEAN NOT NULL DEFAULT FALSE,
    schema_ver INTEGER /*! UNSIGNED */ NOT NULL,
    rev INTEGER /*! UNSIGNED */ NOT NULL DEFAULT 1,
    created_at DATETIME NOT NULL,
    PRIMARY KEY (userid),
    UNIQUE (name),
    CONSTRAINT user_clusterid UNIQUE (clusterid, userid),
    CONSTRAINT user_state CHECK (state IN ('creating', 'live'))
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS counter (
    area VARCHAR(16) NOT NULL,
    max BIGINT /*! UNSIGNED */ NOT NULL,
    PRIMARY KEY (area)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

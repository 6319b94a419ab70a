-- What balancing knows of users and clusters.  Times are seconds since 1970 (UTC).

-- A user's size as the survey found it on clusterid; write_rate in writes a second.
CREATE TABLE IF NOT EXISTS balance_user (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    clusterid INTEGER /*! UNSIGNED */ NOT NULL,
    bytes BIGINT /*! UNSIGNED */ NOT NULL,
    row_count BIGINT /*! UNSIGNED */ NOT NULL,
    write_rate DOUBLE NOT NULL DEFAULT 0,
    surveyed_at BIGINT NOT NULL,
    moved_at BIGINT NULL,
    PRIMARY KEY (userid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- A cluster's disk (device: clusters with the same one share it) and how busy it is.
CREATE TABLE IF NOT EXISTS balance_cluster (
    clusterid INTEGER /*! UNSIGNED */ NOT NULL,
    data_bytes BIGINT /*! UNSIGNED */ NULL,
    disk_total BIGINT /*! UNSIGNED */ NULL,
    disk_free BIGINT /*! UNSIGNED */ NULL,
    device VARCHAR(200) NULL,
    measured_at BIGINT NULL,
    busy DOUBLE NULL,
    write_rate DOUBLE NULL,
    busy_at BIGINT NULL,
    PRIMARY KEY (clusterid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- Users who stay where they are.
CREATE TABLE IF NOT EXISTS balance_pin (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    why VARCHAR(200) NOT NULL,
    pinned_at BIGINT NOT NULL,
    PRIMARY KEY (userid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

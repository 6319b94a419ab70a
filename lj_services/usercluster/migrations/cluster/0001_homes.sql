-- The fence, and the numberspaces of those who live here.
CREATE TABLE IF NOT EXISTS user_home (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    state VARCHAR(10) NOT NULL,
    epoch INTEGER /*! UNSIGNED */ NOT NULL,
    readonly BOOLEAN NOT NULL DEFAULT FALSE,
    move_id BIGINT /*! UNSIGNED */ NULL,
    PRIMARY KEY (userid),
    CONSTRAINT user_home_state CHECK (state IN ('active', 'frozen', 'importing', 'moved'))
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS usercounter (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    area VARCHAR(16) NOT NULL,
    max BIGINT /*! UNSIGNED */ NOT NULL,
    PRIMARY KEY (userid, area)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- The moves of users between clusters, what happened in each, and who works on them.
-- Times are milliseconds since 1970 (UTC) by the clock of this database.
CREATE TABLE IF NOT EXISTS user_move (
    move_id INTEGER /*! UNSIGNED */ NOT NULL /*! AUTO_INCREMENT */,
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    active_userid INTEGER /*! UNSIGNED */ NULL,
    src INTEGER /*! UNSIGNED */ NOT NULL,
    dst INTEGER /*! UNSIGNED */ NOT NULL,
    home_epoch INTEGER /*! UNSIGNED */ NOT NULL,
    state VARCHAR(12) NOT NULL,
    ending VARCHAR(12) NULL,
    error VARCHAR(1000) NULL,
    owner VARCHAR(100) NULL,
    claim INTEGER /*! UNSIGNED */ NOT NULL,
    lease_until BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    attempts INTEGER /*! UNSIGNED */ NOT NULL,
    priority INTEGER NOT NULL,
    back_of INTEGER /*! UNSIGNED */ NULL,
    options VARCHAR(2000) NOT NULL,
    progress VARCHAR(4000) NOT NULL,
    freeze_us BIGINT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT NULL,
    switched_at BIGINT NULL,
    finished_at BIGINT NULL,
    PRIMARY KEY (move_id),
    CONSTRAINT user_move_active UNIQUE (active_userid),
    CONSTRAINT user_move_state UNIQUE (state, due_at, move_id)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS user_move_event (
    event_id INTEGER /*! UNSIGNED */ NOT NULL /*! AUTO_INCREMENT */,
    move_id INTEGER /*! UNSIGNED */ NOT NULL,
    at BIGINT NOT NULL,
    state VARCHAR(12) NOT NULL,
    message VARCHAR(1000) NOT NULL,
    PRIMARY KEY (event_id),
    CONSTRAINT user_move_event_move UNIQUE (move_id, event_id)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS mover_worker (
    name VARCHAR(100) NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (name)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

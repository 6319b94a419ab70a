-- Which worker's claim of which move may change a user's fence here; n is waited for in the feed.
CREATE TABLE IF NOT EXISTS move_marker (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    move_id BIGINT /*! UNSIGNED */ NOT NULL,
    claim INTEGER /*! UNSIGNED */ NOT NULL,
    n INTEGER /*! UNSIGNED */ NOT NULL,
    PRIMARY KEY (userid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

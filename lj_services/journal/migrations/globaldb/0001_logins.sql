-- What is needed to log in; made in the same transaction as the user.
CREATE TABLE IF NOT EXISTS login (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    password_hash VARCHAR(255) NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (userid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

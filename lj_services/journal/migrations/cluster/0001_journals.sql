-- Everything that a user has on the site.  Times are milliseconds since 1970 (UTC).
CREATE TABLE IF NOT EXISTS profile (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    title VARCHAR(100) NOT NULL,
    about VARCHAR(2000) NOT NULL,
    PRIMARY KEY (userid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS session (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    sessionid INTEGER /*! UNSIGNED */ NOT NULL,
    token_hash CHAR(64) NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    browser VARCHAR(200) NOT NULL,
    PRIMARY KEY (userid, sessionid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS post (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    postid INTEGER /*! UNSIGNED */ NOT NULL,
    security SMALLINT NOT NULL,
    posted_ms BIGINT NOT NULL,
    edited_ms BIGINT NULL,
    comments INTEGER NOT NULL DEFAULT 0,
    subject VARCHAR(200) NOT NULL,
    mood VARCHAR(60) NOT NULL,
    music VARCHAR(120) NOT NULL,
    body MEDIUMTEXT NOT NULL,
    PRIMARY KEY (userid, postid),
    CONSTRAINT post_security CHECK (security IN (0, 1, 2))
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS comment (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    commentid INTEGER /*! UNSIGNED */ NOT NULL,
    postid INTEGER /*! UNSIGNED */ NOT NULL,
    parentid INTEGER /*! UNSIGNED */ NOT NULL,
    authorid INTEGER /*! UNSIGNED */ NOT NULL,
    posted_ms BIGINT NOT NULL,
    deleted BOOLEAN NOT NULL DEFAULT FALSE,
    body TEXT NOT NULL,
    PRIMARY KEY (userid, commentid),
    CONSTRAINT comment_of_post UNIQUE (userid, postid, commentid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- userid trusts and reads friendid.
CREATE TABLE IF NOT EXISTS friend (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    friendid INTEGER /*! UNSIGNED */ NOT NULL,
    seq INTEGER /*! UNSIGNED */ NOT NULL,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (userid, friendid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- The reverse, on the other's cluster: userid is trusted by friendid, if live.
CREATE TABLE IF NOT EXISTS friendof (
    userid INTEGER /*! UNSIGNED */ NOT NULL,
    friendid INTEGER /*! UNSIGNED */ NOT NULL,
    seq INTEGER /*! UNSIGNED */ NOT NULL,
    live BOOLEAN NOT NULL,
    PRIMARY KEY (userid, friendid)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

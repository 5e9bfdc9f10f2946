//! The local server and database files of another version of `PostgreSQL`.

use std::path::PathBuf;

use tenantry::local_postgres::{LocalPostgres, Options, Started, reachable_data_dir};

use crate::support::TestDb;

/// A data folder with files that say they are version 9's, as after an upgrade of the package. They are empty otherwise:
/// nothing starts on them.
fn old_files(name: &str) -> PathBuf {
    let dir = reachable_data_dir(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
    std::fs::remove_dir_all(&dir).ok();
    dir
}

async fn age(dir: &PathBuf, durable: bool) -> PathBuf {
    let server = LocalPostgres::start(Options { data_dir: dir.clone(), durable }).await.expect("a first server");
    assert_eq!(server.started(), Started::New);
    drop(server);
    let version = std::fs::read_dir(dir)
        .expect("the data folder")
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("PG_VERSION"))
        .find(|path| path.is_file())
        .expect("database files");
    // The server ends behind the last hold on it.
    let pid = version.with_file_name("postmaster.pid");
    for _ in 0..200 {
        if !pid.exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    std::fs::write(&version, "9\n").expect("another version");
    version
}

#[tokio::test]
async fn local_postgres_of_tests_throws_files_of_another_version_away() {
    let dir = old_files("aged-tests");
    let version = age(&dir, false).await;
    let server = LocalPostgres::start(Options { data_dir: dir.clone(), durable: false }).await.expect("made anew");
    assert_eq!(server.started(), Started::New);
    assert_ne!(std::fs::read_to_string(version).expect("a version").trim(), "9");
    drop(server);
}

#[tokio::test]
async fn local_postgres_of_development_says_how_to_bring_the_data_along() {
    let dir = old_files("aged-development");
    let version = age(&dir, true).await;
    let error = LocalPostgres::start(Options { data_dir: dir.clone(), durable: true }).await.expect_err("refused");
    let text = error.to_string();
    let files = version.parent().expect("the files").display().to_string();
    for part in ["made by PostgreSQL 9", "pg_upgrade", "PG_BIN=", "initdb -D", &files] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(std::fs::read_to_string(version).expect("a version"), "9\n", "nothing was touched");
}

/// What the whole suite runs on: with `PG_BIN=npm` the pinned package, otherwise what `PG_BIN` names.
#[tokio::test]
async fn local_postgres_of_tests_is_the_version_asked_for() {
    let database = TestDb::seeded().await;
    let running: String =
        sqlx::query_scalar("show server_version").fetch_one(&mut database.system().await).await.expect("a version");
    println!("PostgreSQL {running}");
    match std::env::var("PG_BIN") {
        Ok(npm) if npm == "npm" => assert!(running.starts_with("18."), "PG_BIN=npm, and PostgreSQL {running} runs"),
        Ok(bin) if !bin.is_empty() => {
            let output = std::process::Command::new(PathBuf::from(bin).join("postgres")).arg("--version").output();
            let version = String::from_utf8_lossy(&output.expect("postgres --version").stdout).into_owned();
            let number = running.split(' ').next().unwrap_or_default();
            assert!(version.contains(number), "PG_BIN has {version}, and PostgreSQL {running} runs");
        }
        _ => {}
    }
}

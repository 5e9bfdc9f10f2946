//! The local server and database files of another version of `PostgreSQL`.

use std::path::PathBuf;

use tenantry::local_postgres::{LocalPostgres, Options, Started, reachable_data_dir};

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
    for part in ["made by PostgreSQL 9", "pg_upgrade", "pg_dumpall", "PG_BIN", &files] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(std::fs::read_to_string(version).expect("a version"), "9\n", "nothing was touched");
}

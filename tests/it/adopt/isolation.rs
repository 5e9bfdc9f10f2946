//! What the old database and the old application bring along must not open one tenant's rows to another.

use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tenantry::adopt::{self, FinalizeOptions, Plan};

use super::{
    OLD_APP, count, ended, finalize, keeping_access, legacy, pairs, plan, run, run_sql, scratch, seen_by, session,
    slugs, tenantry, try_run, verify,
};

#[tokio::test]
async fn policies_that_hold_for_the_api_as_well_are_refused() {
    let database = legacy("bots").await;
    let mut owner = database.owner().await;
    run_sql(
        &mut owner,
        &format!(
            "delete from legacy.secrets where key = 'lost';
             create policy everybody on legacy.bots for select to public using (true);
             create policy tenant on legacy.bots to {OLD_APP} using (true);
             create policy own on legacy.secrets to {OLD_APP} using (bot_id = 1);
             alter table legacy.secrets enable row level security"
        ),
    )
    .await;
    run(&database, plan("bots")).await;
    let refused = finalize(&database, keeping_access(plan("bots"))).await.expect_err("open").to_string();
    assert!(
        refused.contains("policy everybody holds for tenantry_app")
            || refused.contains("policy \"everybody\" holds for"),
        "{refused}"
    );
    assert!(
        refused.contains("rename to legacy_tenant") || refused.contains("rename to \"legacy_tenant\""),
        "{refused}"
    );
    assert!(!refused.contains("own"), "only the old application's: {refused}");
    let options = FinalizeOptions { cut_over: true, ..FinalizeOptions::default() };
    let refused = adopt::finalize(&mut session(&database).await, plan("bots"), &options).await.expect_err("open");
    assert!(refused.to_string().contains("everybody"), "after the cut-over it would still hold: {refused}");
    run_sql(
        &mut owner,
        &format!("alter policy everybody on legacy.bots to {OLD_APP}; alter policy tenant on legacy.bots rename to old_tenant"),
    )
    .await;

    // Everybody, and whose rights a login of the API has.
    let open = Plan { keep_access: vec!["public".to_owned()], ..plan("bots") };
    let refused = finalize(&database, open).await.expect_err("everybody").to_string();
    assert!(refused.contains("\"public\" is everybody, tenantry_app too"), "{refused}");
    let (api, old) = (format!("{}_api", database.name), format!("{}_old", database.name));
    let mut superuser = database.superuser().await;
    run_sql(&mut superuser, &format!("create role {old}; create role {api} login; grant tenantry_app, {old} to {api}"))
        .await;
    let shared = Plan { keep_access: vec![OLD_APP.to_owned(), old.clone()], ..plan("bots") };
    let refused = finalize(&database, shared).await.expect_err("shared").to_string();
    assert!(refused.contains(&format!("{api} has the rights of \"{old}\"")), "{refused}");
    run_sql(&mut superuser, &format!("drop role {api}; drop role {old}")).await;
    // Access by PUBLIC cannot be kept: it is said what to do instead.
    run_sql(&mut owner, "grant select on legacy.bots to public").await;
    let refused = finalize(&database, keeping_access(plan("bots"))).await.expect_err("granted to all").to_string();
    assert!(
        refused.contains("revoke all on legacy.bots from public")
            || refused.contains("revoke all on \"legacy\".\"bots\" from public"),
        "{refused}"
    );
    let file = scratch(&database).join("plan.toml");
    let arguments = ["adopt", "plan", "--schema", "legacy", "--output", file.to_str().expect("a path")];
    assert_eq!(ended(tenantry(&database, &arguments).await).await.0, 0);
    let written = std::fs::read_to_string(&file).expect("the plan");
    assert!(
        written.contains(&format!("# keep_access = [\"{OLD_APP}\"]")) && written.contains("from public"),
        "{written}"
    );
    std::fs::remove_dir_all(scratch(&database)).ok();
    run_sql(&mut owner, "revoke select on legacy.bots from public").await;

    finalize(&database, keeping_access(plan("bots"))).await.expect("finalize");
    assert_eq!(finalize(&database, keeping_access(plan("bots"))).await.expect("again"), Vec::<String>::new());
    assert_eq!(verify(&database, plan("bots")).await, []);
    let bots = "select name || ' of ' || user_id from legacy.bots order by id limit 4";
    assert_eq!(seen_by(&database, "user_john", "john-workspace", bots).await.len(), 3);
    // Where it had row-level security, the old application sees what it saw.
    let mut old = database.options(OLD_APP).connect().await.expect("the old application");
    let seen: (i64, i64) =
        sqlx::query_as("select (select count(*) from legacy.bots), (select count(*) from legacy.secrets)")
            .fetch_one(&mut old)
            .await
            .expect("rows");
    assert_eq!(seen, (21, 1));
    // One that comes later is found.
    run_sql(&mut owner, "create policy later on legacy.secrets to tenantry_app using (value <> '')").await;
    let findings = verify(&database, plan("bots")).await;
    assert!(findings.len() == 1 && findings[0].check == "open-policy", "{findings:?}");
}

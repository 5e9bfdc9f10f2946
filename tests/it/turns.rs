//! How jobs go over all organizations.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tenantry::error::{Error, Result};
use tenantry::id::OrganizationId;
use tenantry::turns::by_organization;
use uuid::Uuid;

use crate::support::TestDb;

/// One that never ends and one that fails take no turn from those behind them, and the run says that one failed.
#[tokio::test]
async fn turns_of_one_organization_are_no_other_ones() {
    let database = TestDb::empty().await;
    let [endless, failing, good] = [1, 2, 3].map(|n| OrganizationId::from_uuid(Uuid::from_u128(n)));
    let had = Mutex::new(BTreeMap::new());
    let turn = async |organization| -> Result<u64> {
        let turns = {
            let mut had = had.lock().expect("no panic");
            let turns = had.entry(organization).or_insert(0);
            *turns += 1;
            *turns
        };
        match organization {
            organization if organization == endless => Ok(1),
            organization if organization == failing => Err(Error::internal("it cannot")),
            _ => Ok(u64::from(turns < 4)),
        }
    };
    let all = [endless, failing, good];
    let done = by_organization(
        &database.db(),
        "test",
        |_, after| {
            let behind = all.iter().copied().filter(|id| id.uuid() > after.uuid()).collect();
            Box::pin(async move { Ok(behind) })
        },
        turn,
    )
    .await;
    assert!(done.is_err(), "what failed is told");
    assert_eq!(had.into_inner().expect("no panic"), BTreeMap::from([(endless, 20), (failing, 1), (good, 4)]));
}

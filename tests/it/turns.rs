//! How jobs go over all organizations.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tenantry::error::{Error, Result};
use tenantry::id::OrganizationId;
use tenantry::turns::by_organization;
use uuid::Uuid;

use crate::support::TestDb;

/// Everybody has a turn before anybody has the next; one that never ends and one that fails take none from the others, and the run
/// says that one failed.
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

/// Rows that come due while another one's are done wait for one turn of it.
#[tokio::test]
async fn who_comes_late_waits_for_one_turn() {
    let database = TestDb::empty().await;
    let [late, big] = [1, 2].map(|n| OrganizationId::from_uuid(Uuid::from_u128(n)));
    let order = Mutex::new(Vec::new());
    let done = by_organization(
        &database.db(),
        "test",
        |_, after| {
            let came = order.lock().expect("no panic").len() >= 3;
            let due = [late, big].into_iter().filter(|id| id.uuid() > after.uuid() && (came || *id == big)).collect();
            Box::pin(async move { Ok(due) })
        },
        async |organization| -> Result<u64> {
            order.lock().expect("no panic").push(organization);
            Ok(u64::from(organization != late))
        },
    )
    .await;
    assert_eq!(done.expect("a run"), 20);
    let order = order.into_inner().expect("no panic");
    assert_eq!((order.iter().position(|id| *id == late), order.len()), (Some(3), 21));
}

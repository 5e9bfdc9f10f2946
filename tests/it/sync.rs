//! The sync: whatever the order and the number of deliveries, the end is the same.

mod cases;
mod driver;
mod fake_stripe;
mod field;
mod history;
mod owners;
mod stripe;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use driver::Sync;
use serde_json::Value;

/// Histories and orders of each; more by `SYNC_HISTORIES` and `SYNC_ORDERS`, which docs/WEBHOOKS.md names.
fn amount(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What differs, by table and row.
fn differences(in_order: &Value, shuffled: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (table, rows) in in_order.as_object().expect("tables") {
        if rows != &shuffled[table] {
            let list = |rows: &Value| rows.as_array().cloned().unwrap_or_default();
            let (ours, theirs) = (list(rows), list(&shuffled[table]));
            found.extend(ours.iter().filter(|row| !theirs.contains(row)).map(|row| format!("{table} + {row}")));
            found.extend(theirs.iter().filter(|row| !ours.contains(row)).map(|row| format!("{table} - {row}")));
        }
    }
    found
}

/// A generated history of one organization is delivered in order to one worker, then one to three times each, in random
/// orders, by three senders to three workers. The rows must be the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sync_ends_the_same_in_any_order_and_repetition() {
    let sync = Sync::start().await;
    let orders = amount("SYNC_ORDERS", 3);
    let config = Config {
        cases: amount("SYNC_HISTORIES", 12),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let strategy = (history::steps(), any::<u64>());
    let handle = tokio::runtime::Handle::current();
    let result = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&strategy, |(steps, seed)| {
            let events = history::events(&steps);
            let in_order = handle.block_on(sync.deliver(&events, None));
            for order in 0..orders {
                let shuffled = handle.block_on(sync.deliver(&events, Some(seed.wrapping_add(u64::from(order)))));
                let differences = differences(&in_order, &shuffled);
                prop_assert!(differences.is_empty(), "in order and (seed {seed}, order {order}) not: {differences:#?}");
            }
            Ok(())
        })
    });
    let histories = amount("SYNC_HISTORIES", 12);
    eprintln!("{histories} histories × {orders} orders = {} permutations; {}", histories * orders, sync.figures());
    if let Err(error) = result {
        panic!("{error}");
    }
}

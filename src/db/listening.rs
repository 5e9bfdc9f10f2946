//! Connections that listen to NOTIFY, outside of every pool. Who only listens hears nothing from a database that is away, either: so
//! something is asked now and then.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::future;
use sqlx::postgres::PgConnectOptions;
use tokio_postgres::{AsyncMessage, Client};

use super::read_pool::{Connection, connect_alone};
use crate::error::{Error, Result};

/// How often it is asked whether the database is still there.
pub(crate) const LOOK: Duration = Duration::from_secs(10);
/// How long an answer may take. The longest wait is one for a lock, which ends after 5 s (`lock_timeout`).
const ANSWER: Duration = Duration::from_secs(10);

/// Listens to a channel, on a connection of its own, until that is lost; says why it was. `begun` is called when it listens: what was
/// told before is not told again.
///
/// # Errors
/// Always, in the end.
pub(crate) async fn listen(
    options: &PgConnectOptions,
    channel: &str,
    begun: impl FnOnce(),
    told: impl Fn(),
) -> Result<Infallible> {
    let (client, mut connection) = connect_alone(options).await?;
    tokio::select! {
        lost = hear(&mut connection, |_| told()) => lost,
        lost = keep_asking(&client, channel, begun) => lost,
    }
}

async fn keep_asking(client: &Client, channel: &str, begun: impl FnOnce()) -> Result<Infallible> {
    in_time(client.batch_execute(&format!("listen {channel}"))).await??;
    begun();
    loop {
        look(client).await?;
    }
}

/// Has the connection do its work, until it is lost; `told` gets what is notified.
///
/// # Errors
/// Always, in the end.
pub(crate) async fn hear(connection: &mut Connection, told: impl Fn(&str)) -> Result<Infallible> {
    loop {
        match future::poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => told(notification.payload()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(Error::Unavailable),
        }
    }
}

/// Waits for a while, then asks whether the database is still there.
///
/// # Errors
/// When it is not.
pub(crate) async fn look(client: &Client) -> Result<()> {
    tokio::time::sleep(LOOK).await;
    Ok(in_time(client.batch_execute("select 1")).await??)
}

/// An answer that may not take long.
///
/// # Errors
/// [`Error::Unavailable`] when it does.
pub(crate) async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(ANSWER, answer).await.map_err(|_| Error::Unavailable)
}

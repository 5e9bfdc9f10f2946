//! Sends invitations by mail.
//!
//! The link of a mail has a token of its own, made when the mail is sent: so no secret waits in the database, and the link that
//! whoever invites was shown works beside it. A mail that was taken over by a worker who died is sent again, with another link.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use uuid::Uuid;

use crate::access::MemberRole;
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::mail::{self, MailError, Mailer, Template};
use crate::members::invitations::{InvitationToken, accept_url};

/// The names that a template may have.
const NAMES: &[&str] = &["organization", "inviter", "role", "link", "expires"];
/// Mails that are begun at once.
const BATCH: i64 = 20;
/// How long a mail that was begun is left to whoever began it.
const LEASE: TimeDelta = TimeDelta::minutes(5);
/// How often it is looked for mail.
const TICK: Duration = Duration::from_secs(2);
/// How long it waits after each failure, in minutes; then nobody tries any more.
const WAITS: &[i64] = &[1, 4, 15, 60, 240];

/// The template of `invitation.txt` and `invitation.html`.
#[derive(Clone, Debug)]
pub struct InvitationTemplate(Template);

impl Default for InvitationTemplate {
    fn default() -> Self {
        let (text, html) = (include_str!("invitation.txt"), include_str!("invitation.html"));
        // A test reads it.
        Self(Template::parse(text, Some(html), NAMES, "link").unwrap_or_else(|problem| unreachable!("{problem}")))
    }
}

impl InvitationTemplate {
    /// That of a folder, or the default where it has none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(folder: &Path) -> std::result::Result<Self, String> {
        if !folder.is_dir() {
            return Err(format!("{} is no folder", folder.display()));
        }
        Ok(Template::load(folder, "invitation", NAMES, "link")?.map(Self).unwrap_or_default())
    }
}

/// Sends what is due.
pub struct InvitationMail {
    db: Db,
    clock: Clock,
    mailer: Mailer,
    template: InvitationTemplate,
    app_url: String,
}

/// An invitation to be sent.
struct Due {
    organization_id: Uuid,
    id: Uuid,
    email: String,
    role: MemberRole,
    organization: String,
    inviter: Option<String>,
    expires_at: DateTime<Utc>,
    attempts: i32,
    is_open: bool,
}

/// The keys of invitations: a column each.
fn keys<'a>(all: impl Iterator<Item = &'a Due>) -> (Vec<Uuid>, Vec<Uuid>) {
    all.map(|due| (due.organization_id, due.id)).unzip()
}

impl InvitationMail {
    #[must_use]
    pub const fn new(db: Db, clock: Clock, mailer: Mailer, template: InvitationTemplate, app_url: String) -> Self {
        Self { db, clock, mailer, template, app_url }
    }

    /// Sends what is due until a stop is asked for.
    pub async fn run(&self, mut stopping: watch::Receiver<bool>) {
        loop {
            let sent = self.send_due().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "mail could not be looked after; it is tried again");
                0
            });
            if *stopping.borrow() {
                return;
            }
            // More may be waiting.
            if sent >= usize::try_from(BATCH).unwrap_or(usize::MAX) {
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = stopping.changed() => return,
            }
        }
    }

    /// Sends some of what is due; says how many were tried.
    ///
    /// # Errors
    /// The database cannot be reached. What goes wrong with a mail is kept with its invitation.
    pub async fn send_due(&self) -> Result<usize> {
        let begun = self.begin().await?;
        let number = begun.len();
        for (due, token) in begun {
            match &self.mailer {
                Mailer::Log => {
                    tracing::info!(
                        invitation = %due.id, organization = %due.organization_id,
                        "an invitation is not mailed: SMTP_URL is not set. Its link is in the answer to whoever invited"
                    );
                    self.settle(&due, None).await?;
                }
                Mailer::Smtp { transport, from } => {
                    let mail = self.template.0.fill(&[
                        ("organization", &due.organization),
                        ("inviter", due.inviter.as_deref().unwrap_or(&due.organization)),
                        ("role", &due.role.label().to_lowercase()),
                        ("link", &accept_url(&self.app_url, &token)),
                        ("expires", &due.expires_at.format("%-d %B %Y, %H:%M UTC").to_string()),
                    ]);
                    let sent = mail::send(transport, from, &due.email, mail).await;
                    if let Err(error) = &sent {
                        tracing::warn!(invitation = %due.id, attempt = due.attempts, problem = error.problem, "an invitation was not mailed");
                    }
                    self.settle(&due, Some(sent)).await?;
                }
            }
        }
        Ok(number)
    }

    /// Takes some of what is due, so that nobody else sends it, and gives each a token.
    async fn begin(&self) -> Result<Vec<(Due, InvitationToken)>> {
        let now = self.clock.now();
        let mut tx = SystemTx::begin(&self.db).await?;
        let found = sqlx::query_as!(
            Due,
            r#"select i.organization_id, i.id, i.email, i.role as "role: MemberRole", o.name as organization, u.name as "inviter?",
                      i.expires_at, i.mail_attempts + 1 as "attempts!",
                      (i.accepted_at is null and i.revoked_at is null and i.expires_at > $1 and o.deleted_at is null
                       and o.suspended_at is null) as "is_open!"
                 from tenantry.invitations i join tenantry.organizations o on o.id = i.organization_id
                 left join tenantry.users u on u.id = i.invited_by
                where i.mail_due_at <= $1 order by i.mail_due_at limit $2 for update of i skip locked"#,
            now,
            BATCH
        )
        .fetch_all(tx.conn())
        .await?;
        let (open, settled): (Vec<_>, Vec<_>) = found.into_iter().partition(|due| due.is_open);
        if !settled.is_empty() {
            let (organizations, ids) = keys(settled.iter());
            sqlx::query!(
                "update tenantry.invitations i set mail_due_at = null from unnest($1::uuid[], $2::uuid[]) as n (organization_id, id)
                  where i.organization_id = n.organization_id and i.id = n.id",
                &organizations,
                &ids
            )
                .execute(tx.conn())
                .await?;
        }
        let begun: Vec<(Due, InvitationToken)> =
            open.into_iter().map(|due| (due, InvitationToken::default())).collect();
        if !begun.is_empty() {
            let (organizations, ids) = keys(begun.iter().map(|(due, _)| due));
            let hashes: Vec<Vec<u8>> = begun.iter().map(|(_, token)| token.hash()).collect();
            sqlx::query!(
                "update tenantry.invitations i
                    set mail_due_at = $1, mail_attempts = i.mail_attempts + 1, mail_token_hash = n.hash
                   from unnest($2::uuid[], $3::uuid[], $4::bytea[]) as n (organization_id, id, hash)
                  where i.organization_id = n.organization_id and i.id = n.id",
                now + LEASE,
                &organizations,
                &ids,
                &hashes
            )
            .execute(tx.conn())
            .await?;
        }
        tx.commit().await?;
        Ok(begun)
    }

    /// Writes down what became of a mail; `None`: nobody sends mail.
    async fn settle(&self, due: &Due, sent: Option<std::result::Result<(), MailError>>) -> Result<()> {
        let now = self.clock.now();
        let wait = usize::try_from(due.attempts - 1).ok().and_then(|attempt| WAITS.get(attempt));
        let (mailed, problem, next) = match sent {
            None => (None, None, None),
            Some(Ok(())) => (Some(now), None, None),
            Some(Err(MailError { problem, is_final: true })) => (None, Some(problem), None),
            Some(Err(MailError { problem, is_final: false })) => {
                (None, Some(problem), wait.map(|minutes| now + TimeDelta::minutes(*minutes)))
            }
        };
        let mut tx = SystemTx::begin(&self.db).await?;
        // Whoever sent it again meanwhile has begun anew.
        sqlx::query!(
            "update tenantry.invitations set mailed_at = $4, mail_problem = $5, mail_due_at = $6
              where organization_id = $1 and id = $2 and mail_attempts = $3",
            due.organization_id,
            due.id,
            due.attempts,
            mailed,
            problem,
            next
        )
        .execute(tx.conn())
        .await?;
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_template_is_one() {
        let mail = InvitationTemplate::default().0.fill(&[("organization", "Acme"), ("link", "https://a.example")]);
        assert!(mail.subject.contains("Acme") && mail.text.contains("https://a.example") && mail.html.is_some());
    }
}

//! `tenantry token`: a development token.

use chrono::Duration;
use clap::Args;

use super::database::{Database, data_dir};
use super::output::{CommandError, CommandResult, Exit, Output};
use crate::auth::dev::{DevIssuer, IssueRequest};
use crate::clock::Clock;
use crate::config::Config;
use crate::members;

/// Print a development token, and nothing else. Refuses in production.
#[derive(Args)]
pub(super) struct Token {
    /// E-mail address of the user.
    #[arg(long)]
    user: String,
    /// Slug of the organization that the token is for. Without it, the token names none.
    #[arg(long)]
    org: Option<String>,
    /// Whoever acts in the place of the user, as the identity provider names them: `user_x`.
    #[arg(long, value_name = "ID")]
    impersonator: Option<String>,
    /// How long the token is valid: 30s, 15m, 1h, at most 24h.
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
}

impl Token {
    pub(super) async fn run(self, config: &Config, output: Output) -> CommandResult {
        if !config.is_development() {
            return Err(CommandError::usage(
                "tokens are made in development only; in production the identity provider makes them",
            ));
        }
        let issuer = DevIssuer::open(&data_dir(config)).map_err(CommandError::usage)?;
        let database = Database::open(config).await?;
        let db = database.pools(config)?;
        let user = &self.user;
        let subject = members::subject_of(&db, user).await?.ok_or_else(|| {
            CommandError::failed(format!("nobody has the e-mail address {user}; the sample data has alice@example.com"))
        })?;
        let organization = match &self.org {
            None => None,
            Some(slug) => {
                let row = members::viewer(&db, subject.as_str()).await?;
                let membership = row.iter().flat_map(|row| &row.memberships).find(|m| m.organization.slug == *slug);
                let membership =
                    membership.ok_or_else(|| CommandError::failed(format!("{user} is not a member of {slug}")))?;
                Some(membership.organization.token_claim())
            }
        };
        let request = IssueRequest {
            subject,
            impersonator: self.impersonator,
            organization,
            ttl: Some(self.ttl),
            now: Clock::System.now(),
        };
        output.line(&issuer.issue(&request).map_err(CommandError::usage)?)?;
        db.close().await;
        Ok(Exit::Success)
    }
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let number: i64 =
        number.parse().map_err(|_| "a time to live is a number and s, m or h: 30s, 15m, 1h".to_owned())?;
    let seconds = match unit {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    match seconds {
        Some(seconds @ 1..=86_400) => Ok(Duration::seconds(seconds)),
        _ => Err("a token lives from 1s to 24h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live() {
        assert_eq!(parse_ttl("90s"), Ok(Duration::seconds(90)));
        assert_eq!(parse_ttl("24h"), Ok(Duration::hours(24)));
        for bad in ["", "h", "1", "0s", "25h", "-1h", "1d", "9223372036854775807h", "é"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}

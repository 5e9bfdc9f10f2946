//! Counters of this process for `GET /metrics`, in Prometheus' text format (version 0.0.4).
//!
//! Labels come from fixed lists, so that no sender can create series without end: types outside of [`EventType`] count
//! as `other`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};

use crate::telemetry::histogram::Histogram;
use crate::webhook_events::{EventType, WebhookSource, WebhookStatus};

const BOUNDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
/// Secrets have their place in the list as a label; more than this many are not told apart.
const SECRETS: [&str; 5] = ["0", "1", "2", "3", "4+"];

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    counters: BTreeMap<Series, u64>,
    lags: BTreeMap<(&'static str, &'static str), Histogram>,
}

/// A counter: its name, its source, the name and the value of its other label.
type Series = (&'static str, &'static str, &'static str, &'static str);

fn label(source: WebhookSource) -> &'static str {
    match source {
        WebhookSource::Clerk => "clerk",
        WebhookSource::Stripe => "stripe",
    }
}

fn type_label(source: WebhookSource, event_type: &str) -> &'static str {
    EventType::of(source, event_type).map_or("other", EventType::name)
}

impl Metrics {
    fn count(&self, name: &'static str, source: WebhookSource, key: &'static str, value: &'static str) {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *numbers.counters.entry((name, label(source), key, value)).or_default() += 1;
    }

    fn lag(&self, name: &'static str, source: WebhookSource, from: DateTime<Utc>, to: DateTime<Utc>) {
        // Clocks differ: what seems to come before its cause took no time.
        let time = (to - from).to_std().unwrap_or_default();
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.lags.entry((name, label(source))).or_insert_with(|| Histogram::new(BOUNDS)).observe(time);
    }

    /// A delivery was verified, by the secret at this place of the list.
    pub fn verified(&self, source: WebhookSource, secret: usize) {
        self.count("verified", source, "secret", SECRETS[secret.min(SECRETS.len() - 1)]);
    }

    /// A delivery was refused.
    pub fn refused(&self, source: WebhookSource, reason: &'static str) {
        self.count("refused", source, "reason", reason);
    }

    /// An event is in the inbox; `new` unless it was there before.
    pub fn stored(&self, source: WebhookSource, event_type: &str, new: bool) {
        self.count(if new { "received" } else { "repeated" }, source, "type", type_label(source, event_type));
    }

    /// An event that was new: how old it was.
    pub fn received(&self, source: WebhookSource, created_at: Option<DateTime<Utc>>, received_at: DateTime<Utc>) {
        if let Some(created_at) = created_at {
            self.lag("receive", source, created_at, received_at);
        }
    }

    /// An event was worked on.
    pub fn worked(
        &self,
        source: WebhookSource,
        event_type: &str,
        status: WebhookStatus,
        received_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) {
        let name = match status {
            WebhookStatus::Received => return,
            WebhookStatus::Applied => "applied",
            WebhookStatus::Ignored => "ignored",
            WebhookStatus::Failed => "failed",
            WebhookStatus::Dead => "dead",
        };
        self.count(name, source, "type", type_label(source, event_type));
        if matches!(status, WebhookStatus::Applied | WebhookStatus::Ignored) {
            self.lag("apply", source, received_at, now);
        }
    }

    /// The text of the counters.
    #[must_use]
    pub fn render(&self) -> String {
        let numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        let mut family = "";
        for ((name, source, key, value), count) in &numbers.counters {
            if *name != family {
                family = name;
                text += &format!("# TYPE tenantry_webhooks_{name}_total counter\n");
            }
            text += &format!("tenantry_webhooks_{name}_total{{source=\"{source}\",{key}=\"{value}\"}} {count}\n");
        }
        family = "";
        for ((name, source), histogram) in &numbers.lags {
            let family_name = format!("tenantry_webhooks_{name}_lag_seconds");
            if *name != family {
                family = name;
                text += &format!("# TYPE {family_name} histogram\n");
            }
            histogram.render(&mut text, &family_name, &format!("source=\"{source}\""));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_type_has_its_label() {
        for event_type in EventType::ALL {
            let metrics = Metrics::default();
            metrics.stored(event_type.source(), event_type.name(), true);
            let text = metrics.render();
            assert!(text.contains(&format!("type=\"{}\"}} 1", event_type.name())), "{text}");
        }
    }

    #[test]
    fn the_text_is_prometheus_and_its_labels_are_bounded() {
        let metrics = Metrics::default();
        for event_type in ["user.created", "x\"}\n1", "another"] {
            metrics.stored(WebhookSource::Clerk, event_type, true);
        }
        metrics.verified(WebhookSource::Stripe, 900);
        metrics.refused(WebhookSource::Stripe, "SIGNATURE_TOO_OLD");
        let then = DateTime::UNIX_EPOCH;
        let later = then + chrono::Duration::milliseconds(7);
        metrics.worked(WebhookSource::Clerk, "user.created", WebhookStatus::Applied, then, later);
        metrics.worked(WebhookSource::Clerk, "user.created", WebhookStatus::Applied, later, then);
        let text = metrics.render();
        for line in [
            "# TYPE tenantry_webhooks_received_total counter",
            "tenantry_webhooks_received_total{source=\"clerk\",type=\"other\"} 2",
            "tenantry_webhooks_received_total{source=\"clerk\",type=\"user.created\"} 1",
            "tenantry_webhooks_refused_total{source=\"stripe\",reason=\"SIGNATURE_TOO_OLD\"} 1",
            "tenantry_webhooks_verified_total{source=\"stripe\",secret=\"4+\"} 1",
            "tenantry_webhooks_apply_lag_seconds_bucket{source=\"clerk\",le=\"0.005\"} 1",
            "tenantry_webhooks_apply_lag_seconds_bucket{source=\"clerk\",le=\"0.01\"} 2",
            "tenantry_webhooks_apply_lag_seconds_bucket{source=\"clerk\",le=\"+Inf\"} 2",
            "tenantry_webhooks_apply_lag_seconds_count{source=\"clerk\"} 2",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
    }
}

//! The two forms of `/metrics`: Prometheus' text (0.0.4), and `OpenMetrics` (1.0.0), which has examples of recorded traces.
//!
//! Both are made of one text, whose families stand together and whose examples stand behind the buckets that they are of.

use axum::http::{HeaderMap, header};

use super::families::FAMILIES;
use crate::telemetry::histogram::EXAMPLE;

/// The form that a scraper wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Prometheus,
    OpenMetrics,
}

impl Form {
    /// What the scraper accepts. Prometheus names `OpenMetrics` first where it is content with both.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut ranges = accepted.flat_map(|value| value.split(','));
        let wanted = ranges.any(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next() == Some("application/openmetrics-text") && !parts.any(|part| matches!(part, "q=0" | "q=0.0"))
        });
        if wanted { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The text in this form.
    pub(super) fn write(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() * 5 / 4);
        for line in text.lines() {
            match line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                Some((family, kind)) => self.family(&mut out, family, kind),
                None => self.sample(&mut out, line),
            }
        }
        if self == Self::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    /// In `OpenMetrics` the family of a counter is named without the ending of its series.
    fn family(self, out: &mut String, family: &str, kind: &str) {
        let shown = match self {
            Self::OpenMetrics if kind == "counter" => family.strip_suffix("_total").unwrap_or(family),
            _ => family,
        };
        if let Some((_, meaning)) = FAMILIES.iter().find(|(known, _)| *known == family) {
            *out += &format!("# HELP {shown} {meaning}\n");
        }
        *out += &format!("# TYPE {shown} {kind}\n");
    }

    fn sample(self, out: &mut String, line: &str) {
        let (sample, example) = line.split_once(EXAMPLE).map_or((line, None), |(sample, rest)| (sample, Some(rest)));
        match self {
            Self::Prometheus => out.push_str(sample),
            Self::OpenMetrics => {
                // Bounds are numbers with a point there.
                let bound = sample.split_once("le=\"").and_then(|(before, rest)| Some((before, rest.split_once('"')?)));
                match bound {
                    Some((before, (bound, after))) if bound.bytes().all(|byte| byte.is_ascii_digit()) => {
                        *out += &format!("{before}le=\"{bound}.0\"{after}");
                    }
                    _ => out.push_str(sample),
                }
                if let Some(example) = example {
                    out.push_str(EXAMPLE);
                    out.push_str(example);
                }
            }
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_is_written_in_both_forms() {
        let text = "# TYPE x_total counter\nx_total{a=\"b\"} 1\n# TYPE y_seconds histogram\ny_seconds_bucket{le=\"1\"} 2 # {trace_id=\"0a\",span_id=\"1\"} 0.5 7\ny_seconds_bucket{le=\"0.5\"} 1\n";
        assert_eq!(
            Form::Prometheus.write(text),
            "# TYPE x_total counter\nx_total{a=\"b\"} 1\n# TYPE y_seconds histogram\ny_seconds_bucket{le=\"1\"} 2\ny_seconds_bucket{le=\"0.5\"} 1\n"
        );
        assert_eq!(
            Form::OpenMetrics.write(text),
            "# TYPE x counter\nx_total{a=\"b\"} 1\n# TYPE y_seconds histogram\ny_seconds_bucket{le=\"1.0\"} 2 # {trace_id=\"0a\",span_id=\"1\"} 0.5 7\ny_seconds_bucket{le=\"0.5\"} 1\n# EOF\n"
        );
    }

    /// What Prometheus 2.42 and 3 send, and others.
    #[test]
    fn the_form_is_the_scrapers_choice() {
        let of = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a value"));
            Form::accepted(&headers)
        };
        let old = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!([of(old), of(new)], [Form::OpenMetrics; 2]);
        for other in ["text/plain", "*/*", "application/openmetrics-text;q=0", ""] {
            assert_eq!(of(other), Form::Prometheus, "{other}");
        }
    }
}

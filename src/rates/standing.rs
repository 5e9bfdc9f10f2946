//! What an operation costs and what is left, as clients are told.

use async_graphql::{Name, Value, indexmap::IndexMap};

use super::Rate;

/// A budget at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Points that are there.
    pub available: u64,
    /// What it holds at most, and what comes back.
    pub rate: Rate,
}

/// The cost of an operation, and the budgets that it is charged to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Points.
    pub cost: u64,
    /// That of the credential; `None`: there is no limit, or nobody knows the credential yet.
    pub credential: Option<Level>,
    /// That of the organization; `None`: there is no limit, or nobody was let into one.
    pub organization: Option<Level>,
}

impl Standing {
    fn levels(&self) -> impl Iterator<Item = (&'static str, Level)> {
        let named = [("credential", self.credential), ("organization", self.organization)];
        named.into_iter().filter_map(|(name, level)| Some((name, level?)))
    }

    /// The headers `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10); `None`: there is no limit. The unit
    /// is a point. There is no `t`: points come back all the time.
    #[must_use]
    pub fn headers(&self) -> Option<(String, String)> {
        let list = |item: fn(&Level) -> String| {
            let items: Vec<String> =
                self.levels().map(|(name, level)| format!("\"{name}\";{}", item(&level))).collect();
            items.join(", ")
        };
        self.levels().next()?;
        let policy = list(|Level { rate, .. }| {
            let window = (u128::from(rate.burst) * 60).div_ceil(u128::from(rate.per_minute.max(1))).max(1);
            format!("q={};w={window}", rate.burst)
        });
        Some((policy, list(|level| format!("r={}", level.available))))
    }

    /// `extensions.cost`, in the words of Shopify's API, for which there are clients: of the two budgets the one that has less.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let object = |members: Vec<(&str, Value)>| {
            let members = members.into_iter().map(|(name, value)| (Name::new(name), value));
            Value::Object(members.collect::<IndexMap<_, _>>())
        };
        let mut cost = vec![("requestedQueryCost", self.cost.into()), ("actualQueryCost", self.cost.into())];
        if let Some((_, level)) = self.levels().min_by_key(|(_, level)| level.available) {
            let per_minute = level.rate.per_minute;
            let restore_rate = match u32::try_from(per_minute) {
                Ok(few) if few % 60 != 0 => Value::from(f64::from(few) / 60.0),
                _ => Value::from(per_minute / 60),
            };
            let members = vec![
                ("maximumAvailable", level.rate.burst.into()),
                ("currentlyAvailable", level.available.into()),
                ("restoreRate", restore_rate),
            ];
            cost.push(("throttleStatus", object(members)));
        }
        object(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_extension_say_what_is_left() {
        let level = |available, per_minute, burst| Some(Level { available, rate: Rate { per_minute, burst } });
        let standing =
            Standing { cost: 46, credential: level(450, 3_000, 500), organization: level(999, 6_000, 1_000) };
        let (policy, limit) = standing.headers().expect("a limit");
        assert_eq!(policy, "\"credential\";q=500;w=10, \"organization\";q=1000;w=10");
        assert_eq!(limit, "\"credential\";r=450, \"organization\";r=999");
        let shown = standing.to_value().into_json().expect("JSON");
        let throttle = serde_json::json!({ "maximumAvailable": 500, "currentlyAvailable": 450, "restoreRate": 50 });
        assert_eq!(
            shown,
            serde_json::json!({ "requestedQueryCost": 46, "actualQueryCost": 46, "throttleStatus": throttle })
        );
        let slow = Standing { organization: level(1, 90, 100), ..standing };
        assert_eq!(slow.to_value().into_json().expect("JSON")["throttleStatus"]["restoreRate"], 1.5);
        assert_eq!(Standing { cost: 1, ..Standing::default() }.headers(), None);
    }
}

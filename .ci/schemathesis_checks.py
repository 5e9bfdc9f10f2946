"""What schemathesis needs to know of this API: values of its scalars, and what no answer may contain."""

import schemathesis
from hypothesis import strategies as st
from schemathesis.graphql import nodes

# Names of the engine and of the database, and the code of failures on our side.
INTERNALS = (
    '"INTERNAL"',
    "occurred while parsing",
    "Failed to parse",
    "Expected input type",
    "Invalid value for argument",
    "async_graphql",
    "panicked",
    "sqlx",
    "SQLSTATE",
    "syntax error at or near",
)


def texts(*known):
    """Known values, and any text now and then."""
    return st.one_of(st.sampled_from(known), st.sampled_from(known), st.text(max_size=20)).map(nodes.String)


IDS = [f"{prefix}_0199c0ffee0070008000000000000001" for prefix in ("tic", "usr", "org", "cus", "mem", "bud", "esc", "rep")]

schemathesis.graphql.scalar("DateTime", texts("2027-01-04T09:00:00Z", "1969-12-31T23:59:60+14:00", "+262000-01-01T00:00:00Z"))
schemathesis.graphql.scalar("Decimal", texts("12.50", "0", "-1", "99999999999999999999999999.9999"))
schemathesis.graphql.scalar("CurrencyCode", texts("EUR", "JPY", "XXX"))
schemathesis.graphql.scalar(
    "JSON", st.one_of(st.just(nodes.Object(fields=[])), st.integers(-5, 5).map(nodes.Int), st.text(max_size=9).map(nodes.String))
)
schemathesis.graphql.scalar("ID", texts(*IDS))


@schemathesis.check
def no_failure(ctx, response, case):
    """Errors with a code of ours are answers; its own check takes every error of GraphQL for a failure of the server."""
    assert response.status_code < 500, f"{response.status_code}: {response.text[:500]}"
    text = response.text
    for word in INTERNALS:
        assert word not in text, f"{word} in {text[:500]}"

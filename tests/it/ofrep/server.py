# Usage: server.py <folder of packages> <base url> <API key>
import sys

sys.path.insert(0, sys.argv[1])

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

base_url, key = sys.argv[2:]


def client(token):
    api.set_provider(OFREPProvider(base_url, headers_factory=lambda: {"Authorization": f"Bearer {token}"}))
    return api.get_client()


who = EvaluationContext("customer-7", {"email": "someone@example.com", "plan": "ENTERPRISE"})
flags = client(key)
banner = flags.get_boolean_details("holiday-banner", False, who)
assert (banner.value, banner.variant, str(banner.reason)) == (True, "on", "STATIC"), banner
assert banner.flag_metadata == {"reasonDetail": "DEFAULT"}, banner
assert flags.get_string_value("theme", "none", who) == "dark"
assert flags.get_integer_value("page-size", 1, who) == 25
assert flags.get_float_value("ratio", 1.0, who) == 0.5
assert flags.get_object_value("limits", {}, who) == {"rows": 50, "export": True}
assert flags.get_string_value("no-value", "of the code", who) == "of the code"
for flag, context, code in [
    ("no-such", who, "FLAG_NOT_FOUND"),
    ("suggested-answers", None, "TARGETING_KEY_MISSING"),
    ("theme", who, "TYPE_MISMATCH"),
    ("theme", EvaluationContext("x" * 2000), "INVALID_CONTEXT"),
    ("theme", EvaluationContext("u", {"much": "x" * 1024 * 1024}), "GENERAL"),
]:
    failed = flags.get_boolean_details(flag, True, context)
    assert failed.value is True and failed.error_code.value == code, (flag, failed)
refused = client("nonsense").get_boolean_details("holiday-banner", False, who)
assert (refused.value, refused.error_code.value) == (False, "GENERAL"), refused
print("ALL WELL")

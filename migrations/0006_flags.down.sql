drop table tenantry.feature_flag_usage;
drop table tenantry.organization_feature_flags;
drop table tenantry.feature_flag_definitions;
drop type tenantry.flag_override_source;
drop type tenantry.flag_value_type;
drop type tenantry.flag_rollout_unit;
drop type tenantry.flag_kind;

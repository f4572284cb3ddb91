//! Options that say where the objects are.
//!
//! Owns their lines of the table. Must not know who asks for them.

use crate::config::definition::{Authority, Category, Definition, Kind};
use crate::config::values;

pub(super) const TABLE: &[Definition] = &[
    Definition {
        flag: "prefix",
        kind: Kind::Value("PREFIX"),
        default: "",
        help: "Show only keys below this prefix, as the root of the mount",
        details: "The same as mounting s3://BUCKET/PREFIX. Slashes at both ends are dropped.",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "team-a/data",
        set: |o, text| values::prefix(text).map(|prefix| o.operator.prefix = Some(prefix)),
    },
    Definition {
        flag: "endpoint-url",
        kind: Kind::Value("URL"),
        default: "",
        help: "Talk to this S3 endpoint, not to the one of the region",
        details: "Scheme, host and port alone, like http://127.0.0.1:9000. Where it is absent, the \
                  SDK's own rules hold (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile).",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "http://127.0.0.1:9000",
        set: |o, text| values::parsed(text).map(|url| o.operator.endpoint_url = url),
    },
    Definition {
        flag: "region",
        kind: Kind::Value("REGION"),
        default: "",
        help: "Region of the bucket",
        details: "Where it is absent, the SDK's own rules hold (AWS_REGION, the profile, the \
                  instance); on AWS the bucket itself says where it is.",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "eu-central-1",
        set: |o, text| values::word(text).map(|region| o.operator.region = Some(region)),
    },
    Definition {
        flag: "force-path-style",
        kind: Kind::Switch,
        default: "on with an endpoint outside AWS",
        help: "Put the bucket into the URL's path, not into the host's name",
        details: "MinIO, SeaweedFS and most servers without a wildcard DNS name need it, so it is \
                  on for every --endpoint-url outside amazonaws.com. A store that refuses it needs \
                  -o force-path-style=false.",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.operator.force_path_style = Some(on)),
    },
    Definition {
        flag: "requester-pays",
        kind: Kind::Switch,
        default: "",
        help: "Pay for the requests to a Requester Pays bucket",
        details: "",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.operator.requester_pays = Some(on)),
    },
];

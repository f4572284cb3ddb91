//! Options that say who asks the store, and through what.
//!
//! Owns their lines of the table. Must not know what is asked.

use crate::config::definition::{Authority, Category, Definition, Kind};
use crate::config::values;

pub(super) const TABLE: &[Definition] = &[
    Definition {
        flag: "profile",
        kind: Kind::Value("NAME"),
        default: "",
        help: "Take credentials and region from this profile of ~/.aws",
        details: "Where it is absent, the SDK's default chain holds: environment, AWS_PROFILE, web \
                  identity (IRSA), Pod Identity, instance metadata.",
        category: Category::Access,
        authority: Authority::Local,
        example: "research",
        set: |o, text| values::word(text).map(|profile| o.local.profile = Some(profile)),
    },
    Definition {
        flag: "credentials-file",
        kind: Kind::Value("FILE"),
        default: "",
        help: "Take credentials from this file of AWS profiles, and from nowhere else",
        details: "Like ~/.aws/credentials; --profile names another section than `default`. It is \
                  read again while the mount runs. Where the section has role_arn and \
                  web_identity_token_file, STS is asked, at its endpoint_url.",
        category: Category::Access,
        authority: Authority::Local,
        example: "/run/secrets/s3/credentials",
        set: |o, text| values::path(text).map(|path| o.local.credentials_file = Some(path)),
    },
    Definition {
        flag: "no-sign-request",
        kind: Kind::Switch,
        default: "",
        help: "Send no credentials, for public buckets",
        details: "",
        category: Category::Access,
        authority: Authority::Operator,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.operator.no_sign_request = Some(on)),
    },
    Definition {
        flag: "ca-bundle",
        kind: Kind::Value("FILE"),
        default: "$AWS_CA_BUNDLE",
        help: "Trust the certificate authorities in this PEM file, besides the system's",
        details: "",
        category: Category::Access,
        authority: Authority::Local,
        example: "/etc/ssl/company.pem",
        set: |o, text| values::path(text).map(|path| o.local.ca_bundle = Some(path)),
    },
    Definition {
        flag: "proxy",
        kind: Kind::Value("URL"),
        default: "$HTTPS_PROXY and $HTTP_PROXY",
        help: "Send requests through this HTTP proxy",
        details: "For https and http endpoints alike. Every process can read a command line, so a \
                  proxy's password goes into S3POD_PROXY or HTTPS_PROXY. Addresses of instance \
                  metadata are never asked through a proxy.",
        category: Category::Access,
        authority: Authority::Operator,
        example: "http://proxy.example.com:3128",
        set: |o, text| values::parsed(text).map(|url| o.operator.proxy = url),
    },
    Definition {
        flag: "no-proxy",
        kind: Kind::Value("HOSTS"),
        default: "$NO_PROXY",
        help: "Reach these hosts without the proxy",
        details: "Host names, domains, addresses and networks, separated by commas.",
        category: Category::Access,
        authority: Authority::Operator,
        example: "localhost,10.0.0.0/8,.internal",
        set: |o, text| values::word(text).map(|hosts| o.operator.no_proxy = Some(hosts)),
    },
];

//! Shared text, written down.
//!
//! Owns how an `Arc<str>`, or none, is a JSON string, or null. Must not know what the text is.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// For an `Arc<str>`.
pub(super) mod always {
    use super::{Arc, Deserialize, Deserializer, Serializer};

    pub(in crate::store) fn serialize<S: Serializer>(
        text: &Arc<str>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(in crate::store) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<str>, D::Error> {
        Ok(String::deserialize(from)?.into())
    }
}

/// For one that may be absent.
pub(super) fn serialize<S: Serializer>(text: &Option<Arc<str>>, to: S) -> Result<S::Ok, S::Error> {
    text.as_deref().serialize(to)
}

/// For one that may be absent.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Arc<str>>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Arc::from))
}

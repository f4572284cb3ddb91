//! One multipart upload, from its creation to its end.
//!
//! Owns the upload's place in the journal: whoever finds it there after a crash can go on with the
//! parts the store has, or give it up, so that it does not cost storage for ever. Must not know
//! where parts come from or when an upload is worth its requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Engine, Target, with_id};
use crate::journal::{Kind, Record};
use crate::naming::Key;
use crate::store::{self, PartTag, PartTarget, Properties, Upload};
use crate::units::ByteRange;

/// A begun upload.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) upload: Upload,
    /// What it was begun with, the commit id apart.
    pub(super) properties: Properties,
    pub(super) commit_id: String,
    record: Record,
    /// Parts that an earlier process sent.
    pub(super) parts: Arc<BTreeMap<u32, SentPart>>,
}

/// An upload, as the journal knows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct UploadIntent {
    pub(super) upload: Upload,
    pub(super) properties: Properties,
    pub(super) commit_id: String,
}

/// What happened to an upload, as the journal knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum UploadStep {
    /// The store has a part.
    Sent(SentPart),
    /// The bytes of a part were changed since it was sent.
    Changed(u32),
}

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SentPart {
    pub(super) tag: PartTag,
    /// Its place in the file.
    pub(super) range: ByteRange,
}

impl Open {
    /// Begins an upload to `target`'s key with these properties.
    pub(super) async fn begin(
        engine: &Engine,
        target: &Target,
        properties: &Properties,
        commit_id: &str,
    ) -> store::Result<Self> {
        let sent = with_id(properties, commit_id);
        Self::create(engine, &target.key, &sent, (properties, commit_id)).await
    }

    /// Begins the upload of a copy of an object. No later process goes on with it.
    pub(super) async fn begin_copy(
        engine: &Engine,
        key: &Key,
        properties: &Properties,
    ) -> store::Result<Self> {
        Self::create(engine, key, properties, (properties, "")).await
    }

    async fn create(
        engine: &Engine,
        key: &Key,
        sent: &Properties,
        (properties, commit_id): (&Properties, &str),
    ) -> store::Result<Self> {
        let id = engine.0.store.create_upload(key, sent).await?;
        let upload = Upload { key: key.clone(), id };
        let intent = UploadIntent {
            upload: upload.clone(),
            properties: properties.clone(),
            commit_id: commit_id.to_owned(),
        };
        let record = engine.0.journal.begin(Kind::Upload, &[], &intent).unwrap_or_else(|error| {
            tracing::warn!(%key, %error, "should this mount die, nobody aborts this upload");
            Record::none()
        });
        let (properties, commit_id) = (intent.properties, intent.commit_id);
        Ok(Self { upload, properties, commit_id, record, parts: Arc::default() })
    }

    /// An upload that an earlier process began.
    pub(super) fn resume(intent: UploadIntent, steps: Vec<UploadStep>, record: Record) -> Self {
        let mut sent = BTreeMap::new();
        for step in steps {
            match step {
                UploadStep::Sent(part) => drop(sent.insert(part.tag.number, part)),
                UploadStep::Changed(number) => drop(sent.remove(&number)),
            }
        }
        let UploadIntent { upload, properties, commit_id } = intent;
        Self { upload, properties, commit_id, record, parts: Arc::new(sent) }
    }

    /// Where part `number` goes.
    pub(super) fn target(&self, number: u32) -> PartTarget {
        PartTarget { upload: self.upload.clone(), number }
    }

    /// The store has a part, whose bytes are those at `range` of the file.
    pub(super) fn sent(&self, tag: &PartTag, range: ByteRange) {
        self.note(&UploadStep::Sent(SentPart { tag: tag.clone(), range }));
    }

    /// The bytes of a part were changed since it was sent.
    pub(super) fn changed(&self, number: u32) {
        self.note(&UploadStep::Changed(number));
    }

    fn note(&self, step: &UploadStep) {
        if let Err(error) = self.record.note(step) {
            tracing::warn!(key = %self.upload.key, %error, "the journal lacks a part");
            // What it lacks may be that a part is outdated: nobody may go on with this upload.
            self.record.end();
        }
    }

    /// The upload has become an object.
    pub(super) fn completed(&self) {
        self.record.end();
    }

    /// Gives the upload up; one that cannot be aborted is logged, since it costs storage, and
    /// stays in the journal.
    pub(super) async fn abort(&self, engine: &Engine) {
        match engine.0.store.abort_upload(&self.upload).await {
            Ok(()) => self.record.end(),
            Err(error) => {
                let key = &self.upload.key;
                tracing::warn!(%key, %error, "an unfinished upload stays in the bucket for now");
            }
        }
    }

    /// Gives the upload up without anybody waiting for it: the store may be out of reach.
    pub(super) fn abort_later(self, engine: &Engine) {
        let own = engine.clone();
        engine.0.aborts.spawn(async move { self.abort(&own).await });
    }
}

//! Two controllers at work for one claim, as when the leader changes.

use super::*;

/// The markers' part of a key.
const MARKERS: &str = ".s3pod/volumes/";

impl Lab {
    /// The states that stand in the markers.
    fn phases(&self) -> Vec<String> {
        let bucket = self.server.bucket(BUCKET);
        let keys = bucket.keys().into_iter().filter(|key| key.starts_with(MARKERS));
        let read = |key: String| serde_json::from_slice::<Marker>(&bucket.get(&key)?).ok();
        keys.filter_map(read).map(|marker| format!("{:?}", marker.state)).collect()
    }
}

#[tokio::test]
async fn of_two_volumes_for_one_claim_one_becomes_ready() {
    let lab = Lab::new().await;
    let other = Provisioner::default();
    let calls = [claim("web", "pvc-1"), claim("web", "pvc-2")];
    let faults = lab.server.faults();
    // Both have written their markers, and neither has looked at the place again.
    let written = faults.hold_answer(Op::Put, MARKERS);
    let beside = async {
        written.wait_for(2).await;
        let made_ready = faults.hold(Op::Put, MARKERS);
        written.release();
        // Both have looked, and found nothing but what is half made.
        made_ready.wait_for(2).await;
        made_ready.release();
    };
    let (one, two, ()) =
        tokio::join!(lab.create(&calls[0]), lab.create_by(&other, &calls[1]), beside);
    assert!(one.is_err() || two.is_err(), "{one:?} {two:?}");
    assert!(lab.phases().iter().filter(|phase| *phase == "Ready").count() <= 1);
    for refusal in [&one, &two].into_iter().filter_map(|made| made.as_ref().err()) {
        assert_eq!(refusal.code, Code::Aborted, "{refusal}");
    }
    // The provisioner asks again.
    let heir = match &one {
        Ok(volume) => volume.clone(),
        Err(_) => lab.create_by(&other, &calls[1]).await.unwrap(),
    };
    assert_eq!(lab.phases(), ["Ready"]);
    lab.put(&["team-a/web/a"]);
    let late = if one.is_ok() { &calls[1] } else { &calls[0] };
    refused(lab.create(late).await, Code::FailedPrecondition, &["pathPattern"]);
    // Nobody's deletion takes the other's objects.
    let loser = VolumeId { hash: hash_of(&late.name), ..VolumeId::read(&heir.id).unwrap() };
    lab.delete_to_the_end(&loser.to_string()).await;
    assert_eq!(lab.keys(), ["team-a/web/a"]);
}

#[tokio::test]
async fn what_was_retained_outlives_a_call_that_finds_its_place_taken() {
    let lab = Lab::new().await;
    let call = claim("web", "pvc-1").with("onDelete", "retain");
    let volume = lab.create(&call).await.unwrap();
    assert_eq!(lab.delete(&volume.id).await, Ok(()));
    assert_eq!(lab.phases(), ["Retained"]);
    // As if another release had put a volume inside of it.
    let mut inner =
        Marker::new("pvc-2", class::Owner::default(), "team-a/web/x/".into(), String::new());
    inner.state = State::Ready;
    let key = VolumeId { hash: hash_of("pvc-2"), ..VolumeId::read(&volume.id).unwrap() }.marker();
    lab.server.bucket(BUCKET).put(&key, serde_json::to_vec(&inner).unwrap());
    refused(lab.create(&call).await, Code::FailedPrecondition, &["pathPattern"]);
    let mut phases = lab.phases();
    phases.sort();
    assert_eq!(phases, ["Ready", "Retained"]);
}

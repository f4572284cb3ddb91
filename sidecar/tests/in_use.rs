//! What `s3pod-sidecar in-use` asks a cluster, and what it makes of the answers.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use s3pod_testkit::tls;

use super::{run, said};

/// An API that answers what its table says, in the order of the requests.
struct Cluster {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Cluster {
    /// The pages of persistentvolumes and of pods; none of the pods is an API that refuses.
    fn start(
        volumes: Vec<String>,
        pods: Option<Vec<String>>,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut volumes = volumes.into_iter();
            let mut pods = pods.map(Vec::into_iter);
            // Ends with the process: nobody waits for it.
            while let Ok((stream, _)) = listener.accept() {
                let mut stream: Box<dyn Stream> = match &tls {
                    None => Box::new(stream),
                    Some(config) => {
                        let tls = ServerConnection::new(Arc::clone(config)).expect("a config");
                        Box::new(StreamOwned::new(tls, stream))
                    }
                };
                let Some(request) = request(&mut stream) else { continue };
                let page = match (request.contains("/persistentvolumes?"), &mut pods) {
                    (true, _) => volumes.next(),
                    (false, Some(pods)) => pods.next(),
                    (false, None) => None,
                };
                noted.lock().expect("no panic").push(request);
                let answer = match page {
                    Some(page) => {
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len())
                    }
                    None => "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { url: format!("{scheme}://127.0.0.1:{port}"), asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for StreamOwned<ServerConnection, TcpStream> {}

/// A request's head; none where nothing comes.
fn request(stream: &mut Box<dyn Stream>) -> Option<String> {
    let mut head = String::new();
    let mut lines = BufReader::new(stream);
    while lines.read_line(&mut head).ok()? > 2 {}
    head.starts_with("GET ").then_some(head)
}

fn page(items: &[&str], rest: &str) -> String {
    format!(r#"{{"metadata": {{"continue": "{rest}"}}, "items": [{}]}}"#, items.join(","))
}

fn volume(driver: &str, claim: &str) -> String {
    format!(
        r#"{{"spec": {{"csi": {{"driver": "{driver}", "volumeHandle": "x"}},
             "claimRef": {{"namespace": "team", "name": "{claim}"}}}}}}"#
    )
}

fn pod(name: &str, claim: &str) -> String {
    format!(
        r#"{{"metadata": {{"namespace": "team", "name": "{name}"}},
             "status": {{"phase": "Running"}}, "spec": {{"nodeName": "n", "volumes": [
                {{"name": "data", "persistentVolumeClaim": {{"claimName": "{claim}"}}}}]}}}}"#
    )
}

#[test]
fn pods_on_every_page_are_named_and_it_fails() {
    let volumes = [volume("csi.s3pod", "ours"), volume("ebs.csi.aws.com", "theirs")];
    let pods = [pod("a", "ours"), pod("b", "theirs"), pod("c", "ours")];
    let cluster = Cluster::start(
        vec![page(&[&volumes[0]], "next"), page(&[&volumes[1]], "")],
        Some(vec![page(&[&pods[0], &pods[1]], "more"), page(&[&pods[2]], "")]),
        None,
    );
    let output = run(&["in-use", "--api", &cluster.url]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let words = said(&output);
    assert!(words.contains("2 pods use volumes of csi.s3pod"), "{words}");
    assert!(words.contains("team/a (volume data), team/c (volume data)"), "{words}");
    let asked = cluster.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[1].starts_with("GET /api/v1/persistentvolumes?limit=200&continue=next "));
    assert!(!asked.concat().to_lowercase().contains("authorization"), "{asked:?}");
}

#[test]
fn a_cluster_without_users_is_no_failure() {
    let cluster =
        Cluster::start(vec![page(&[], "")], Some(vec![page(&[&pod("a", "theirs")], "")]), None);
    let output = run(&["in-use", "--api", &cluster.url, "--driver-name", "s3.example.com"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("no pod uses a volume of s3.example.com"));
}

#[test]
fn what_may_not_be_asked_is_a_failure_that_names_the_right() {
    let cluster = Cluster::start(vec![page(&[], "")], None, None);
    let output = run(&["in-use", "--api", &cluster.url]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("the verb list on pods"), "{}", said(&output));
    let output = run(&["in-use", "--api", "cluster:6443"]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("--api: `cluster:6443`"), "{}", said(&output));
}

#[test]
fn the_token_goes_to_the_cluster_of_its_authority_and_nowhere_else() {
    let config = tls::server_config().expect("a config");
    let start = || {
        let empty = || vec![page(&[], "")];
        Cluster::start(empty(), Some(empty()), Some(Arc::clone(&config)))
    };
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cr3t\n").expect("a file");
    let token = token.to_str().expect("plain words");
    let authority = tls::authority();
    let ask = |cluster: &Cluster, ca: &Path| {
        let ca = ca.to_str().expect("plain words");
        run(&["in-use", "--api", &cluster.url, "--token-file", token, "--ca-file", ca])
    };

    let cluster = start();
    let output = ask(&cluster, &authority);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(cluster.asked()[0].to_lowercase().contains("authorization: bearer s3cr3t\r\n"));

    // Somebody else's certificate: the authority of one's own, but not this one.
    let cluster = start();
    let other = folder.path().join("other.pem");
    std::fs::copy(tls::certificate(), &other).expect("a file");
    let output = ask(&cluster, &other);
    assert_ne!(output.status.code(), Some(0), "{}", said(&output));
    assert!(cluster.asked().is_empty());
    assert!(!said(&output).contains("s3cr3t"), "{}", said(&output));
}

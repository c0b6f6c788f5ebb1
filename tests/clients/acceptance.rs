//! The acceptance list of `cargo bench --bench servers -- --replica URL`, run against simulated instances: it passes where they are well, and tells where one
//! is not.

use difygate::simulated_dify::{Cluster, Health, SimulatedDify, Traffic};

use crate::servers::acceptance::arguments::Arguments;
use crate::servers::acceptance::{self, Finding, Item};

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Two instances of one deployment, and the words that name them.
async fn pair() -> ([SimulatedDify; 2], String) {
    let cluster = Cluster::new();
    let start = async |name| SimulatedDify::start(&cluster, name).await.unwrap();
    let difys = [start("dify-1").await, start("dify-2").await];
    for dify in &difys {
        dify.set(|switches| switches.health = Health::Real);
    }
    let named = difys.each_ref().map(|dify| format!("--replica {}", dify.url()));
    (difys, named.join(" "))
}

/// Inputs of a simulated run of two seconds.
const INPUTS: &str = r#"--inputs {"events":40,"gap_ms":50}"#;

async fn items(text: &str) -> Vec<Item> {
    acceptance::run(Arguments::parse(&words(text)).unwrap(), |_| {}).await
}

fn failed(items: &[Item]) -> Vec<&Item> {
    let fails = |item: &&Item| matches!(item.finding, Finding::Failed(_));
    items.iter().filter(fails).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_is_well_passes_the_list() {
    let (difys, named) = pair().await;
    let items = items(&format!("{named} --key app-key {INPUTS}")).await;
    assert!(failed(&items).is_empty(), "{items:#?}");
    let passed = items.iter().filter(|item| matches!(item.finding, Finding::Passed(_)));
    assert_eq!(passed.count(), 16, "{items:#?}");
    let executed: u64 = difys.iter().map(|dify| dify.tally().executed()).sum();
    assert!((1..=20).contains(&executed), "{executed} runs were started");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_no_run_is_started() {
    let (difys, named) = pair().await;
    let items = items(&named).await;
    assert!(failed(&items).is_empty(), "{items:#?}");
    assert_eq!(difys.map(|dify| dify.tally().executed()), [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_is_not_well_fails_it() {
    let (difys, named) = pair().await;
    for dify in &difys {
        dify.set(|switches| switches.traffic = Traffic::DatabaseDown);
    }
    let items = items(&format!("{named} --key app-key {INPUTS}")).await;
    let names: Vec<&str> = failed(&items).iter().map(|item| item.name).collect();
    assert!(
        names.contains(&"100 reads, eight at a time: none fails, none takes 5 s"),
        "{names:?}"
    );
    assert!(names.contains(&"a blocking prompt is answered"), "{names:?}");
    difys[1].kill().await;
    let items = acceptance::run(Arguments::parse(&words(&named)).unwrap(), |_| {}).await;
    let last = items.last().unwrap();
    assert_eq!(last.name, "the gate finds every replica fit by the preset `dify`");
    assert!(
        matches!(&last.finding, Finding::Failed(why) if why.contains("not find")),
        "{last:?}"
    );
}

#[test]
fn wrong_words_are_refused_with_the_reason() {
    for (text, reason) in [
        ("--key k", "--replica URL is wanted, once for each replica"),
        ("--replica", "--replica wants a value"),
        (
            "--replicas http://a:1",
            "--replicas: no such option; there are --replica URL, --key K and --inputs JSON",
        ),
        (
            "--replica https://a:1",
            "--replica https://a:1: only http is spoken to replicas; a URL of the form http://HOST:PORT is wanted",
        ),
        (
            "--replica a:1",
            "--replica a:1: only http is spoken to replicas; a URL of the form http://HOST:PORT is wanted",
        ),
        (
            "--replica http://a",
            "--replica http://a: it names no port; a URL of the form http://HOST:PORT is wanted",
        ),
        (
            "--replica http://a:0",
            "--replica http://a:0: it names no port; a URL of the form http://HOST:PORT is wanted",
        ),
        (
            "--replica http://a:1/v1",
            "--replica http://a:1/v1: a path has no place here; a URL of the form http://HOST:PORT is wanted",
        ),
        (
            "--replica http://u@a:1",
            "--replica http://u@a:1: a user has no place here; a URL of the form http://HOST:PORT is wanted",
        ),
        (
            "--replica http://a:1 --replica http://a:1/",
            "--replica http://a:1 is given twice",
        ),
        ("--replica http://a:1 --key k --key k", "--key is given twice"),
        (
            "--replica http://a:1 --key=",
            "--key: a key is one word of printable ASCII characters",
        ),
        ("--replica http://a:1 --inputs []", "--inputs: a JSON object is wanted"),
    ] {
        assert_eq!(Arguments::parse(&words(text)).unwrap_err(), reason, "{text}");
    }
    let parsed = Arguments::parse(&words("--replica=http://127.0.0.1:5001 --key=app-k")).unwrap();
    assert_eq!(
        (parsed.replicas, parsed.key),
        (vec!["127.0.0.1:5001".to_owned()], Some("app-k".to_owned()))
    );
}

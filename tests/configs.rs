//! Configurations: what is valid, the exact words for what is not, and every example that the documents show.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use difygate::config::{self, Config, ConfigErrors, healthz};
use difygate::gate::direction::Split;
use proptest::prelude::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == ending));
    files.sort();
    files
}

fn environment(name: &str) -> Result<String, String> {
    let known = [("PROBE_PORT", "9000"), ("KEY", "secret"), ("DIFY_HOST", "10.0.0.9")];
    let found = known.iter().find(|(known, _)| *known == name);
    found.map_or_else(|| config::unset(name), |(_, value)| Ok((*value).to_owned()))
}

/// What is wrong with a text of either kind.
fn errors(text: &str, name: &str) -> Option<ConfigErrors> {
    if healthz::is_meant(text) {
        healthz::parse(text, Path::new(name), &environment).err()
    } else {
        parse(text, name).err()
    }
}

fn parse(text: &str, name: &str) -> Result<Config, ConfigErrors> {
    config::parse(text, Path::new(name), &environment)
}

#[test]
fn valid_files_are_accepted() {
    let files = files("tests/configs/valid", "yaml");
    assert!(files.len() >= 9, "only {} files were found", files.len());
    for file in files {
        config::load(&file, &environment).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn invalid_files_are_refused_in_these_very_words() {
    let files = files("tests/configs/invalid", "yaml");
    assert!(files.len() >= 70, "only {} files were found", files.len());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let errors = errors(&text, name).expect(name);
        let expected = std::fs::read_to_string(file.with_extension("txt")).unwrap();
        assert_eq!(errors.to_string(), expected.trim_end(), "{name}");
        let whole_file = ["empty.yaml", "only_comments.yaml", "routes_missing.yaml"].contains(&name);
        assert!(
            errors.errors.iter().all(|error| error.mark.is_some() || whole_file),
            "{name} names no line"
        );
    }
}

/// A service starts without them, for they may arrive later; whoever checks a configuration hears of them.
#[test]
fn files_that_a_healthz_needs_are_looked_for_where_it_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("model.bin");
    std::fs::write(&there, "no certificate").unwrap();
    let there = there.display();
    let text = format!(
        "checks:\n  model_loaded: {{files: [{there}, /nowhere/a.bin, {{path: /nowhere/b.bin, min_size: 1}}]}}\n  database: {{mysql: {{host: db, user: root, tls: {{ca: /nowhere/ca.pem}}}}}}\n  pgvector: {{postgres: {{host: db, user: dify, tls: {{ca: {there}}}}}}}\n  cache: {{redis: {{sentinel: {{service: dify, addresses: [\"s:26379\"], tls: {{ca: /nowhere/ca.pem}}}}}}}}\nlive: {{http: {{url: \"https://127.0.0.1:5001/health\", ca: /nowhere/ca.pem}}}}\n"
    );
    let path = Path::new("healthz.yaml");
    assert!(healthz::parse(&text, path, &environment).is_ok());
    let missing = healthz::inspect(&text, path, &environment).unwrap_err().to_string();
    let missing: Vec<&str> = missing.lines().collect();
    let column = there.to_string().len();
    let ca = "/nowhere/ca.pem: I/O error: No such file or directory (os error 2)";
    assert_eq!(
        missing,
        [
            &format!(
                "healthz.yaml:2:{}: checks.model_loaded.files[1]: /nowhere/a.bin: No such file or directory (os error 2)",
                28 + column
            ),
            &format!(
                "healthz.yaml:2:{}: checks.model_loaded.files[2]: /nowhere/b.bin: No such file or directory (os error 2)",
                44 + column
            ),
            &format!("healthz.yaml:3:50: checks.database.mysql.tls.ca: {ca}"),
            &format!("healthz.yaml:4:53: checks.pgvector.postgres.tls.ca: {there}: it holds no certificate"),
            &format!("healthz.yaml:5:75: checks.cache.redis.sentinel.tls.ca: {ca}"),
            &format!("healthz.yaml:6:53: live.http.ca: {ca}"),
            "6 errors",
        ]
    );
}

#[test]
fn shipped_files_are_valid() {
    let files = files("conf", "yaml");
    assert!(files.len() >= 3, "only {} files were found", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(errors(&text, &file.display().to_string()), None);
    }
}

/// Every piece of YAML in the documents, with the document that shows it.
fn fences() -> Vec<(String, String)> {
    let mut documents = files("docs", "md");
    documents.push(root().join("README.md"));
    let mut fences = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        let shown = text.split("```yaml\n").skip(1);
        let shown = shown.map(|rest| rest.split("```").next().unwrap().to_owned());
        fences.extend(shown.map(|fence| (document.display().to_string(), fence)));
    }
    fences
}

#[test]
fn examples_in_the_documents_are_valid() {
    let mut checked = 0;
    for (document, fence) in fences() {
        let is_ours = |line: &str| line.starts_with("listeners:") || line.starts_with("checks:");
        if fence.lines().any(is_ours) {
            assert_eq!(errors(&fence, &document), None, "{fence}");
            checked += 1;
        }
    }
    assert!(checked >= 4, "only {checked} examples were found");
}

#[test]
fn a_secret_comes_from_a_file_and_is_told_in_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("token");
    std::fs::write(&secret, "Bearer hush-hush\n").unwrap();
    let text = |key: &str, path: &Path| {
        format!(
            "listeners: [{{address: \"127.0.0.1:8080\"}}]\nupstreams: {{dify: {{probe: {{{key}: \"${{file:{}}}\"}}, pools: {{main: {{endpoints: [\"10.0.0.1:80\"]}}}}}}}}\n",
            path.display()
        )
    };
    let parse = |text: &str| config::parse(text, Path::new("gate.yaml"), &config::environment);
    let read = parse(&text("host", &secret)).unwrap();
    assert_eq!(read.document["upstreams"]["dify"]["probe"]["host"], "Bearer hush-hush");
    let refused = parse(&text("interval", &secret)).unwrap_err().to_string();
    assert!(
        refused.contains("(not shown)") && !refused.contains("hush"),
        "{refused}"
    );
    let endless = parse(&text("host", Path::new("/dev/zero"))).unwrap_err().to_string();
    assert!(endless.contains("it has more than 64 KiB"), "{endless}");
    let missing = parse(&text("host", &folder.path().join("none")))
        .unwrap_err()
        .to_string();
    assert!(missing.contains("none` cannot be read: No such file"), "{missing}");
}

/// The unit is read by systemd itself where that is at hand, with this binary in place of the installed one.
#[test]
fn the_unit_gives_a_drain_its_time_and_systemd_finds_nothing_wrong_with_it() {
    let unit = std::fs::read_to_string(root().join("conf/difygate.service")).unwrap();
    let value = |key: &str| {
        let mut lines = unit.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    let defaults = parse("listeners: [{address: \"127.0.0.1:8080\"}]\nupstreams: {dify: {pools: {main: {endpoints: [\"10.0.0.1:80\"]}}}}\n", "gate.yaml").unwrap();
    let patience = config::duration(&value("TimeoutStopSec").unwrap()).unwrap();
    assert!(patience > defaults.server.drain_timeout + defaults.server.lame_duck);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("difygate.service");
    let installed = unit.replace("/usr/local/bin/difygate", env!("CARGO_BIN_EXE_difygate"));
    std::fs::write(&copy, installed).unwrap();
    let Ok(verified) = std::process::Command::new("systemd-analyze")
        .arg("verify")
        .arg(&copy)
        .output()
    else {
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("difygate.service")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

/// Whether a validator of `make origins` takes a file, and what it says.
fn taken(program: &str, arguments: &[&str], path: &Path) -> (bool, String) {
    let program = root().join("target/origins/bin").join(program);
    let output = std::process::Command::new(&program).args(arguments).arg(path).output();
    let output = output.unwrap_or_else(|e| panic!("{}, which `make origins` installs: {e}", program.display()));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Whether a file is what a platform's own JSON Schema says, and what is wrong with it.
fn by_schema(schema: &str, path: &Path) -> (bool, String) {
    taken("check-jsonschema", &["--builtin-schema", schema], path)
}

/// Holds `text` against a validator, and sees that it would refuse the text with this word misspelt.
fn is_taken_but_for(word: &str, text: &str, validate: impl Fn(&Path) -> (bool, String)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.yaml");
    std::fs::write(&path, text).unwrap();
    let (valid, said) = validate(&path);
    assert!(valid, "{said}");
    assert!(text.contains(word), "{text}");
    std::fs::write(&path, text.replace(word, &word[1..])).unwrap();
    assert!(!validate(&path).0, "the test can fail");
}

/// The manifests are read by the schemas of Kubernetes itself, and ask as often as the probes should.
#[test]
fn kubernetes_takes_the_manifests() {
    let manifests = files("conf/kubernetes", "yaml");
    assert!(!manifests.is_empty());
    for manifest in manifests {
        let text = std::fs::read_to_string(&manifest).unwrap();
        is_taken_but_for("replicas", &text, |path| {
            taken("kubernetes-validate", &["--strict"], path)
        });
    }
    let gate = std::fs::read_to_string(root().join("conf/kubernetes/difygate.yaml")).unwrap();
    let own = gate.split("difygate.yaml: |\n").nth(1).unwrap();
    let own = own.split("\n---").next().unwrap().replace("\n    ", "\n");
    assert_eq!(errors(own.trim_start(), "difygate.yaml"), None);
    let api = std::fs::read_to_string(root().join("conf/kubernetes/dify-api.yaml")).unwrap();
    for (probe, terms) in [
        (
            "livenessProbe",
            "path: /livez, port: 9901}, initialDelaySeconds: 30, periodSeconds: 10",
        ),
        (
            "readinessProbe",
            "path: /readyz, port: 9901}, initialDelaySeconds: 10, periodSeconds: 5",
        ),
        ("startupProbe", "path: /startupz, port: 9901}, periodSeconds: 5"),
    ] {
        assert!(api.contains(&format!("{probe}: {{httpGet: {{{terms}")), "{probe}");
    }
    assert!(api.contains("kind: NetworkPolicy"));
}

/// What is for docker compose is read by the schema of the Compose Specification; the gate's file beside it by the gate.
#[test]
fn compose_takes_its_files() {
    let validate = |path: &Path| by_schema("vendor.compose-spec", path);
    let mut checked = 0;
    for file in files("conf/compose", "yaml") {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.lines().any(|line| line == "services:") {
            is_taken_but_for("healthcheck:", &text, validate);
            checked += 1;
        } else {
            assert_eq!(errors(&text, &file.display().to_string()), None);
        }
    }
    for (_, fence) in fences() {
        if fence.lines().any(|line| line == "services:") {
            is_taken_but_for("healthcheck:", &fence, validate);
            checked += 1;
        }
    }
    assert!(checked >= 2, "only {checked} files were found");
}

/// The recipes are read by the schemas of the platforms themselves, and what they hand to the scripts is what these take.
#[test]
fn pipelines_take_the_recipes() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = files("conf/ci", "sh");
    let scripts: String = scripts
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for (name, schema, right, wrong) in [
        ("github-actions.yml", "vendor.github-workflows", "runs-on:", "run-on:"),
        (
            "gitlab-ci.yml",
            "vendor.gitlab-ci",
            "exit_codes: [8]",
            "exit_codes: [eight]",
        ),
    ] {
        let recipe = root().join("conf/ci").join(name);
        let (valid, said) = by_schema(schema, &recipe);
        assert!(valid, "{said}");
        let text = std::fs::read_to_string(&recipe).unwrap();
        let broken = folder.path().join(name);
        std::fs::write(&broken, text.replace(right, wrong)).unwrap();
        assert!(!by_schema(schema, &broken).0, "the test can fail");
        let keys = text.lines().filter_map(|line| line.trim().split_once(':'));
        let variables = keys
            .map(|(key, _)| key)
            .filter(|key| key.len() > 2 && key.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_'));
        for variable in variables.filter(|variable| *variable != "RUN") {
            assert!(
                scripts.contains(variable),
                "{name} sets {variable}, which no script reads"
            );
        }
    }
}

#[test]
fn scripts_of_the_recipes_are_sound_in_any_shell() {
    let check = |path: &Path| {
        let output = std::process::Command::new("shellcheck").arg(path).output();
        let output = output.unwrap_or_else(|e| panic!("shellcheck, which `make tools` installs: {e}"));
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let scripts = files("conf/ci", "sh");
    assert!(!scripts.is_empty());
    for script in scripts {
        let text = std::fs::read_to_string(&script).unwrap();
        assert!(text.starts_with("#!/bin/sh\n"), "no shell in particular");
        let (sound, said) = check(&script);
        assert!(sound, "{said}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&script).unwrap().permissions());
        assert_eq!(mode & 0o111, 0o111, "{} can be run", script.display());
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken.sh");
        std::fs::write(&broken, text + "[[ -n $1 ]]\n").unwrap();
        assert!(!check(&broken).0, "the test can fail");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_says_so() {
    let errors = config::load(Path::new("/nonexistent/gate.yaml"), &environment).unwrap_err();
    let text = errors.to_string();
    assert!(
        text.starts_with("/nonexistent/gate.yaml: cannot be read: No such file"),
        "{text}"
    );
}

#[test]
fn what_a_file_says_is_what_the_gate_runs_on() {
    let text = std::fs::read_to_string(root().join("tests/configs/valid/everything.yaml")).unwrap();
    let config = parse(&text, "everything.yaml").unwrap();
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.active.as_str(), "green");
    let cutover = &config.cutover;
    assert_eq!(
        (cutover.plan.rise, cutover.plan.barrier, cutover.plan.cut),
        (5, true, false)
    );
    assert_eq!(cutover.plan.steps[1].hold, Duration::from_secs(60));
    assert_eq!(cutover.plan.split, Split::Header("x-tenant".to_owned()));
    assert_eq!((cutover.limits.connects, cutover.limits.min_healthy), (0.5, 2));
    assert_eq!((cutover.smoke[0].warm_up, cutover.hooks.len()), (5, 2));
    assert_eq!(cutover.overlap.preview_hosts[0].0, "green.example.com");
    assert_eq!(config.deployments[0].name, "all");
    let state = config.server.state_dir.unwrap();
    assert_eq!((state.path.to_str(), state.wanted), (Some("/var/lib/difygate"), true));
    assert_eq!(upstream.timeouts.pool_idle.as_millis(), 500);
    let green = &upstream.pools[1].endpoints;
    assert_eq!((green[0].weight, green[1].weight), (1, 3));
    assert_eq!(
        (green[0].probes[0].port, green[1].probes[0].port),
        (Some(8081), Some(9000))
    );
    assert!(green[0].probes[0].tls.is_some() && green[1].probes[0].tls.is_none());
    assert_eq!(config.routes[0].timeouts.first_byte.as_secs(), 3_600);
    assert_eq!(
        config.routes[0].timeouts.connect.as_secs(),
        1,
        "a route inherits its upstream's waits"
    );
    let guarded: Vec<&str> = config.guard.paths.iter().collect();
    assert_eq!(guarded, ["/healthz", "/metrics"]);
}

#[test]
fn the_environment_is_put_in_after_the_structure_is_read() {
    let text = std::fs::read_to_string(root().join("tests/configs/valid/environment.yaml")).unwrap();
    let config = parse(&text, "environment.yaml").unwrap();
    let endpoint = &config.upstreams[0].pools[0].endpoints[0];
    assert_eq!(endpoint.address.as_str(), "10.0.0.9:80");
    assert_eq!(endpoint.probes[0].port, Some(9_000));
    assert_eq!(endpoint.probes[0].host.as_deref(), Some("${literal}"));
    assert_eq!(endpoint.probes[0].headers[0].1, "asecretb");
}

#[test]
fn the_schema_describes_every_key() {
    let schema = config::schema();
    let definitions = schema["$defs"].as_object().unwrap();
    assert!(definitions.len() > 15);
    assert!(schema["properties"]["listeners"]["description"].is_string());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        if let Err(errors) = parse(&text, "random.yaml") {
            prop_assert!(errors.errors.iter().all(|error| !error.message.is_empty()));
        }
    }

    #[test]
    fn no_edit_of_a_valid_file_makes_it_panic(at in 0usize..2_000, cut in 0usize..40, put in "[a-z0-9:{}\\[\\]\"'&*#\\- \n\t]{0,6}") {
        let text = std::fs::read_to_string(root().join("tests/configs/valid/everything.yaml")).unwrap();
        let at = at % text.len();
        let end = (at + cut).min(text.len());
        let edited = format!("{}{put}{}", &text[..at], &text[end..]);
        if let Err(errors) = parse(&edited, "edited.yaml") {
            prop_assert!(!errors.errors.is_empty());
            prop_assert!(errors.errors.iter().all(|error| !error.message.is_empty()));
        }
    }
}

/// The route table of the nginx in Dify's docker compose, and where its edges are: prefixes of bytes, not of segments.
#[test]
fn the_compose_files_send_every_path_where_difys_nginx_does() {
    for file in ["conf/dify-compose.yaml", "conf/compose/gate.yaml"] {
        sends_paths_as_nginx_does(file);
    }
}

fn sends_paths_as_nginx_does(file: &str) {
    use difygate::config::Target;
    use difygate::gate::route::{RouteRow, RouteTable};
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let config = config::load(&path, &config::unset).unwrap();
    let rows = config.routes.iter().enumerate().map(|(index, route)| RouteRow {
        hosts: route.hosts.clone(),
        path: route.path.clone(),
        exact: route.exact,
        index,
    });
    let table = RouteTable::new(rows);
    for (path, expected) in [
        ("/console/api/apps", "api"),
        ("/api/passport", "api"),
        ("/apix", "api"),
        ("/v1/chat-messages", "api"),
        ("/v1beta", "api"),
        ("/openapi/v1/apps", "api"),
        ("/files/x/file-preview?sign=a", "api"),
        ("/mcp/server/x/mcp", "api"),
        ("/triggers/webhook/x", "api"),
        ("/socket.io/?EIO=4", "api-websocket"),
        ("/socket.io", "web"),
        ("/explore/apps", "web"),
        ("/e/hook", "plugin-daemon"),
        ("/e", "web"),
        ("/apps", "web"),
        ("/_next/static/x.js", "web"),
        ("/", "web"),
        ("/inner/api/x", "web"),
    ] {
        let route = &config.routes[table.find("dify.example", path.split('?').next().unwrap()).unwrap()];
        assert!(
            matches!(&route.target, Target::Upstream(name) if name.as_str() == expected),
            "{file}: {path}"
        );
    }
}

/// A configuration of one upstream whose timeouts are `timeouts`, after an anchor for each of `anchors`.
fn merging(anchors: &str, timeouts: &str) -> Result<Config, ConfigErrors> {
    let text = format!(
        "listeners: [{{address: \"0.0.0.0:8080\"}}]\nupstreams:\n  first:\n    pools: {{main: {{endpoints: [\"10.0.0.11:80\"]}}}}\n    {anchors}\n  second:\n    pools: {{main: {{endpoints: [\"10.0.0.12:80\"]}}}}\n    timeouts: {timeouts}\nroutes: [{{upstream: first}}]\n"
    );
    parse(&text, "merge.yaml")
}

#[test]
fn keys_of_an_anchor_are_merged_beneath_the_own_ones() {
    let one = "timeouts: &one {connect: 1s, idle: 10s}";
    let both = "timeouts: &one {connect: 1s, idle: 10s}\n    live: {probe: {path: /livez}, restart: {command: [\"true\"]}}\n  other:\n    pools: {main: {endpoints: [\"10.0.0.13:80\"]}}\n    timeouts: &two {<<: *one, connect: 3s, first_byte: 30s}";
    for (anchors, timeouts, connect, first_byte, idle) in [
        (one, "{<<: *one}", 1, 300, 10),
        (one, "{<<: *one, idle: 20s}", 1, 300, 20),
        (one, "{idle: 20s, <<: *one}", 1, 300, 20),
        (one, "\n      <<: *one\n      idle: 20s", 1, 300, 20),
        (one, "{<<: {connect: 2s}, idle: 20s}", 2, 300, 20),
        (both, "{<<: *two}", 3, 30, 10),
        (both, "{<<: [*one, *two]}", 1, 30, 10),
        (both, "{<<: [*two, *one], idle: 5s}", 3, 30, 5),
        (both, "{<<: []}", 2, 300, 3600),
    ] {
        let config = merging(anchors, timeouts).unwrap_or_else(|errors| panic!("{timeouts}: {errors}"));
        let read = config.upstreams.last().unwrap().timeouts;
        let seconds = [read.connect, read.first_byte, read.idle].map(|time| time.as_secs());
        assert_eq!(seconds, [connect, first_byte, idle], "{timeouts}");
    }
}

/// Each anchor names the one before it below thirty lists: a file of a few kilobytes would be thousands of levels deep, too deep for any stack.
#[test]
fn aliases_do_not_make_a_file_deeper_than_it_may_be() {
    let (open, close) = ("[".repeat(25), "]".repeat(25));
    let mut text = format!("a0: &a0 {open}{close}\n");
    for level in 1..100 {
        text += &format!("a{level}: &a{level} {open}*a{}{close}\n", level - 1);
    }
    let errors = parse(&text, "deep.yaml").unwrap_err().to_string();
    assert!(
        errors.starts_with("deep.yaml:2:34: aliases make the file too deep\n"),
        "{errors}"
    );
    // Merged maps are as many nodes as they are where they are named.
    let mut text = "a0: &a0 {x: 1, y: 2}\n".to_owned();
    for level in 1..30 {
        let below = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} {{<<: [{below}, {below}], z{level}: {{<<: {below}}}}}\n");
    }
    let errors = parse(&text, "wide.yaml").unwrap_err().to_string();
    assert!(errors.contains("aliases make the file too large"), "{errors}");
}

#[test]
fn a_byte_order_mark_before_a_configuration_is_none_of_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("difygate.yaml");
    for known in ["conf/minimal.yaml", "conf/healthz.yaml"] {
        let text = std::fs::read_to_string(root().join(known)).unwrap();
        let text = text.trim_start_matches(|c: char| c != '\n').trim_start();
        std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
        let read = config::read_file(&path).unwrap();
        assert_eq!(errors(&format!("\u{feff}{text}"), known), None);
        assert_eq!(read, text);
    }
}

//! `conf/ci/tunnel.sh`, with an ssh and an scp that only note what they are given.

use tokio::process::Command;

use crate::release::{root, script};

#[tokio::test]
async fn the_tunnel_hands_over_the_key_by_a_file_of_its_own_and_trusts_one_machine() {
    for key in ["hush\r\nhush", "key-file"] {
        hands_over(key).await;
    }
}

async fn hands_over(key: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key-file"), "hush\nhush").unwrap();
    std::fs::create_dir(folder.path().join("tmp")).unwrap();
    for program in ["ssh", "scp"] {
        let notes = "printf '%s ' \"$@\" >>\"$HOME/asked\"\nls -l \"$TMPDIR\"/*/key >>\"$HOME/keys\"\ncat \"$TMPDIR\"/*/key \"$TMPDIR\"/*/known_hosts >>\"$HOME/read\"";
        let copy = "for last; do :; done; case $last in */difygate) : >\"$last\" ;; esac";
        script(&folder.path().join(program), &format!("#!/bin/sh\n{notes}\n{copy}\n"));
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.arg(root().join("conf/ci/tunnel.sh")).current_dir(folder.path());
    command
        .env("PATH", path)
        .env("HOME", folder.path())
        .env("TMPDIR", folder.path().join("tmp"));
    command
        .env("GATE_SSH", "release@gate")
        .env("GATE_HOST_KEY", "gate ssh-ed25519 AAAA");
    let output = command.env("GATE_SSH_KEY", key).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let asked = read("asked");
    for words in [
        "release@gate:/usr/local/bin/difygate bin/difygate",
        "StrictHostKeyChecking=yes",
        "-L 9900:127.0.0.1:9900",
    ] {
        assert!(asked.contains(words), "{words} is missing in {asked}");
    }
    assert!(!asked.contains("hush"), "{asked}");
    assert!(read("keys").lines().all(|line| line.starts_with("-rw------- ")));
    assert_eq!(read("read"), "hush\nhush\ngate ssh-ed25519 AAAA\n".repeat(2));
    assert!(std::fs::read_dir(folder.path().join("tmp")).unwrap().next().is_none());
}

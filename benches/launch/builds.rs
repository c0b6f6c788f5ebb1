//! The builds of the gate that take part in a comparison: the one under test and, where it is named, the build before it. Both may be any program,
//! so that both can be of the same profile.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// The name of the build before.
pub(crate) const BEFORE: &str = "the build before";

/// A build of the gate.
pub(crate) struct Build {
    pub(crate) name: &'static str,
    path: PathBuf,
}

impl Build {
    /// The build under test: the program that `DIFYGATE_BIN` names, or the one that cargo built for this benchmark.
    pub(crate) fn under_test() -> Self {
        let path = named("DIFYGATE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_difygate").into());
        Self { name: "difygate", path }
    }

    /// The build that `DIFYGATE_BEFORE` names.
    pub(crate) fn before() -> Option<Self> {
        let path = named("DIFYGATE_BEFORE")?;
        Some(Self { name: BEFORE, path })
    }

    /// Both of them.
    pub(crate) fn all() -> Vec<Self> {
        [Some(Self::under_test()), Self::before()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Its path and the profile that it seems to be of: the release profile strips symbols, and the others keep them.
    pub(crate) fn describe(&self) -> String {
        let program = std::fs::read(&self.path).expect("a program");
        let name = b"\0.symtab\0";
        let has_symbols = program.windows(name.len()).any(|window| window == name);
        let profile = if has_symbols {
            "with symbols, as the profile `bench` builds it: no link-time optimisation"
        } else {
            "stripped, as the profile `release` builds it: thin link-time optimisation"
        };
        format!("{}: {}, {profile}", self.name, self.path.display())
    }

    /// Runs it with a configuration, which is kept in `folder`.
    pub(crate) fn start(&self, folder: &Path, configuration: &str) -> Option<Child> {
        super::start(&mut self.command(folder, configuration)?)
    }

    /// How it is run with a configuration, which is kept in `folder`.
    pub(crate) fn command(&self, folder: &Path, configuration: &str) -> Option<Command> {
        let path = folder.join("gate.yaml");
        std::fs::write(&path, configuration).ok()?;
        let mut command = Command::new(&self.path);
        command.args(["run", "-c"]).arg(&path);
        Some(command)
    }
}

fn named(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    assert!(path.is_file(), "{variable}: {} is not a file", path.display());
    Some(path)
}

/// How many rounds are measured: `BENCH_ROUNDS`, or so many.
pub(crate) fn rounds(usual: usize) -> usize {
    std::env::var("BENCH_ROUNDS").map_or(usual, |rounds| {
        let rounds = rounds.parse().expect("BENCH_ROUNDS is a number");
        assert!(rounds > 0, "BENCH_ROUNDS is at least 1");
        rounds
    })
}

/// The middle of some figures, the least and the most.
pub(crate) fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    let last = figures.len() - 1;
    (figures[figures.len() / 2], figures[0], figures[last])
}

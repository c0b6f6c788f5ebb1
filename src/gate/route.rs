//! Which upstream a request is for, by its host and the beginning of its path.

use std::collections::BTreeMap;

use crate::gate::path::canonical;

/// One route of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// The hosts that it serves, `*.` at the beginning for everything below one; empty serves every host.
    pub hosts: Vec<String>,
    /// What the path must begin with.
    pub path: String,
    /// Or be.
    pub exact: bool,
    /// What [`RouteTable::find`] answers.
    pub index: usize,
}

/// All routes, ready to be asked.
///
/// A path prefix is one of bytes and not of segments, as in nginx: `/v1` takes `/v1beta` too, and `/e/` does not take `/e`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Lower-case hosts without port and final dot, in order.
    hosts: Vec<(String, Prefixes)>,
    /// The ends of hosts, such as `.example.com`, the longest first.
    below: Vec<(String, Prefixes)>,
    any_host: Prefixes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Prefixes {
    /// Whole paths first, then prefixes, the longest first.
    rows: Vec<(String, bool, usize)>,
}

impl RouteTable {
    /// Of two rows with the same host and path, the first is kept.
    pub fn new(rows: impl IntoIterator<Item = RouteRow>) -> Self {
        let mut hosts = BTreeMap::<String, Prefixes>::new();
        let mut below = BTreeMap::<String, Prefixes>::new();
        let mut any_host = Prefixes::default();
        for row in rows {
            if row.hosts.is_empty() {
                any_host.insert(&row);
            }
            for name in &row.hosts {
                let name = bare_host(name).to_ascii_lowercase();
                let own = match name.strip_prefix('*') {
                    Some(end) => below.entry(end.to_owned()),
                    None => hosts.entry(name),
                };
                own.or_default().insert(&row);
            }
        }
        let mut below: Vec<_> = below.into_iter().collect();
        below.sort_by_key(|(end, _)| std::cmp::Reverse(end.len()));
        Self {
            hosts: hosts.into_iter().collect(),
            below,
            any_host,
        }
    }

    /// The index of the route for `host` (as the `Host` header has it) and `path` (still encoded, without its query): the
    /// longest prefix among the routes of that host, where none fits among those of the hosts above it, and then among those of every
    /// host. A whole path comes before every prefix. The path is compared decoded once, with dots resolved and slashes merged.
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        let path = canonical(path);
        let host = bare_host(host);
        let own = self.of_host(host).and_then(|prefixes| prefixes.find(&path));
        let above = || {
            let mut ends = self.below.iter().filter(|(end, _)| is_below(host, end));
            ends.find_map(|(_, prefixes)| prefixes.find(&path))
        };
        own.or_else(above).or_else(|| self.any_host.find(&path))
    }

    fn of_host(&self, host: &str) -> Option<&Prefixes> {
        let lower = || host.bytes().map(|byte| byte.to_ascii_lowercase());
        let place = self
            .hosts
            .binary_search_by(|(name, _)| name.bytes().cmp(lower()))
            .ok()?;
        self.hosts.get(place).map(|(_, prefixes)| prefixes)
    }
}

impl Prefixes {
    fn insert(&mut self, row: &RouteRow) {
        let path = canonical(&row.path).into_owned();
        if self
            .rows
            .iter()
            .any(|(known, exact, _)| *known == path && *exact == row.exact)
        {
            return;
        }
        let rank = |exact: bool, path: &str| (exact, path.len());
        let own = rank(row.exact, &path);
        let place = self
            .rows
            .partition_point(|(known, exact, _)| rank(*exact, known) >= own);
        self.rows.insert(place, (path, row.exact, row.index));
    }

    fn find(&self, path: &str) -> Option<usize> {
        let fits = |row: &&(String, bool, usize)| {
            if row.1 {
                path == row.0
            } else {
                path.starts_with(row.0.as_str())
            }
        };
        self.rows.iter().find(fits).map(|(.., index)| *index)
    }
}

/// Whether a host ends so and has a label before it.
fn is_below(host: &str, end: &str) -> bool {
    let start = host.len().checked_sub(end.len()).filter(|start| *start > 0);
    start
        .and_then(|start| host.get(start..))
        .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// `host` without its port and final dot.
fn bare_host(host: &str) -> &str {
    let name = without_port(host);
    name.strip_suffix('.').unwrap_or(name)
}

/// `host`, as the `Host` header has it, without its port.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(hosts: &[&str], path: &str, index: usize) -> RouteRow {
        RouteRow {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            path: path.to_owned(),
            exact: false,
            index,
        }
    }

    const API: usize = 0;
    const WEB: usize = 1;
    const PLUGINS: usize = 2;
    const SOCKETS: usize = 3;

    fn dify() -> RouteTable {
        let api = ["/console/api", "/api", "/v1", "/openapi", "/files", "/mcp", "/triggers"];
        let web = ["/explore", "/"];
        let rows = api.map(|path| row(&[], path, API)).into_iter();
        let rows = rows.chain(web.map(|path| row(&[], path, WEB)));
        RouteTable::new(rows.chain([row(&[], "/e/", PLUGINS), row(&[], "/socket.io/", SOCKETS)]))
    }

    #[test]
    fn dify_paths_go_where_its_nginx_sends_them() {
        let cases = [
            ("/", WEB),
            ("/apps", WEB),
            ("/explore/installed", WEB),
            ("/inner/api/x", WEB),
            ("/console/api/apps", API),
            ("/console/apps", WEB),
            ("/v1", API),
            ("/v1beta", API),
            ("/apix", API),
            ("/API/x", WEB),
            ("/openapi/v1/apps", API),
            ("/e", WEB),
            ("/e/hook", PLUGINS),
            ("/socket.io", WEB),
            ("/socket.io/", SOCKETS),
            ("/%761/x", API),
            ("//v1/x", API),
            ("/v1/../apps", WEB),
            ("/apps/%2e%2e/v1/x", API),
            ("/e/.", PLUGINS),
            ("/x/../../e//", PLUGINS),
            ("/.well-known/x", WEB),
        ];
        for (path, expected) in cases {
            assert_eq!(dify().find("dify.example", path), Some(expected), "{path}");
        }
    }

    #[test]
    fn an_exact_host_comes_before_any_host() {
        let table = RouteTable::new([
            row(&[], "/v1/long", 0),
            row(&["A.example.", "b.example:8080"], "/v1", 1),
            row(&["[2001:db8::1]"], "/", 2),
        ]);
        let cases = [
            ("a.example", "/v1/long", Some(1)),
            ("A.EXAMPLE.:443", "/v1/long", Some(1)),
            ("b.example", "/v1", Some(1)),
            ("c.example", "/v1/long", Some(0)),
            ("a.example", "/other", None),
            ("[2001:DB8::1]:80", "/", Some(2)),
            ("[2001:db8::1]", "/", Some(2)),
            ("", "/v1/long", Some(0)),
            ("sub.a.example", "/v1", None),
        ];
        for (host, path, expected) in cases {
            assert_eq!(table.find(host, path), expected, "{host} {path}");
        }
    }

    #[test]
    fn a_wildcard_takes_what_is_below_it_after_the_host_itself() {
        let table = RouteTable::new([
            row(&["*.example.com"], "/", 0),
            row(&["*.eu.example.com"], "/v1", 1),
            row(&["a.example.com"], "/v1", 2),
            row(&[], "/", 3),
        ]);
        for (host, path, expected) in [
            ("x.example.com", "/v1", 0),
            ("X.EXAMPLE.COM:443", "/", 0),
            ("x.eu.example.com", "/v1", 1),
            ("x.eu.example.com", "/apps", 0),
            ("a.example.com", "/v1", 2),
            ("a.example.com", "/apps", 0),
            ("example.com", "/v1", 3),
            (".example.com", "/v1", 3),
            ("badexample.com", "/v1", 3),
        ] {
            assert_eq!(table.find(host, path), Some(expected), "{host} {path}");
        }
    }

    #[test]
    fn a_whole_path_comes_before_every_prefix() {
        let exact = RouteRow {
            exact: true,
            ..row(&[], "/v1", 0)
        };
        let table = RouteTable::new([row(&[], "/v1/long", 1), row(&[], "/", 2), exact]);
        for (path, expected) in [("/v1", 0), ("/%761", 0), ("/v1/", 2), ("/v1/long/x", 1), ("/v1x", 2)] {
            assert_eq!(table.find("a", path), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_host_without_a_fitting_prefix_falls_back_to_any_host() {
        let table = RouteTable::new([row(&["a.example"], "/v1", 0), row(&[], "/", 1)]);
        assert_eq!(table.find("a.example", "/apps"), Some(1));
    }

    #[test]
    fn of_two_equal_rows_the_first_is_kept() {
        let table = RouteTable::new([row(&[], "/v1", 0), row(&[], "//v1", 1)]);
        assert_eq!(table.find("a.example", "/v1"), Some(0));
    }

    #[test]
    fn an_empty_table_knows_no_route() {
        assert_eq!(RouteTable::default().find("a.example", "/"), None);
    }
}

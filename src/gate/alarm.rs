//! Notices clients that ask for guarded paths too often: a prober set up wrongly, or somebody trying doors.
//!
//! Each client is counted in its current and its previous window, and its rate is taken from both in proportion, as nginx and
//! Cloudflare estimate a sliding window. The cost of a request is constant and the memory bounded, whoever asks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::gate::client::subscriber;

/// When a client is abnormal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmRules {
    /// The time over which requests are counted.
    pub window: Duration,
    /// The most requests within a window that are normal.
    pub requests: u32,
    /// The most requests of all clients together within it that are normal.
    pub total: u32,
    /// How long a client is refused after it was last over that rate; zero only reports it.
    pub block: Duration,
}

impl Default for AlarmRules {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            requests: 50,
            total: 500,
            block: Duration::ZERO,
        }
    }
}

/// Somebody who asks for guarded paths abnormally often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abnormal {
    /// Who: the network of an IPv6 client, `None` for all whose address cannot be told.
    pub client: Option<IpAddr>,
    /// Its requests in the last window.
    pub requests: u32,
    /// Since when.
    pub since: Instant,
    /// Whether it is refused.
    pub blocked: bool,
}

/// What the alarm says to one request for a guarded path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmVerdict {
    /// The client asks as often as it may.
    Quiet,
    /// The client has just become abnormal. This is said once an episode, and this request is still served.
    Raised {
        /// Who it is; `None` for all whose address cannot be told.
        client: Option<IpAddr>,
        /// Its requests in the last window.
        requests: u32,
    },
    /// It still is.
    Ongoing,
    /// It still is, or was within [`AlarmRules::block`], and is to be refused.
    Blocked,
}

/// The most clients that are remembered.
pub const MAX_CLIENTS: usize = 64 * 1024;

/// Counts requests for guarded paths, client by client. An IPv6 client is its /64, the least that one subscriber holds; all
/// clients without an address are one.
#[derive(Debug)]
pub struct Alarm {
    rules: AlarmRules,
    /// Clients seen since `since`, and those seen only in the generation before. When the first is full or old it replaces
    /// the second, so the oldest clients are forgotten together at constant cost.
    recent: HashMap<Key, Counts>,
    earlier: HashMap<Key, Counts>,
    since: Option<Instant>,
    /// Of all clients together.
    total: Option<Counts>,
}

type Key = Option<IpAddr>;

impl Alarm {
    /// An alarm that has seen nobody.
    pub fn new(rules: AlarmRules) -> Self {
        let window = rules.window.max(Duration::from_millis(1));
        Self {
            rules: AlarmRules { window, ..rules },
            recent: HashMap::new(),
            earlier: HashMap::new(),
            since: None,
            total: None,
        }
    }

    /// Goes by other rules from now on; what was counted by others is forgotten.
    pub fn follow(&mut self, rules: AlarmRules) {
        let fresh = Self::new(rules);
        if fresh.rules != self.rules {
            *self = fresh;
        }
    }

    /// Counts a request for guarded paths whoever it is from, and tells how many there were if they have just become abnormal: many clients that
    /// each ask as often as they may are a flood as well.
    pub fn observe_total(&mut self, now: Instant) -> Option<u32> {
        let rules = AlarmRules {
            requests: self.rules.total,
            block: Duration::ZERO,
            ..self.rules
        };
        match self.total.get_or_insert(Counts::new(now)).observe(None, &rules, now) {
            AlarmVerdict::Raised { requests, .. } => Some(requests),
            AlarmVerdict::Quiet | AlarmVerdict::Ongoing | AlarmVerdict::Blocked => None,
        }
    }

    /// All requests for guarded paths in the last window, and whether they are too many.
    pub fn total(&self, now: Instant) -> (u32, bool) {
        let requests = self.total.map_or(0, |mut counts| counts.now(self.rules.window, now));
        (requests, requests > self.rules.total)
    }

    /// Who asks abnormally often at `now`, the worst first, at most `most` of them.
    pub fn abnormal(&self, most: usize, now: Instant) -> Vec<Abnormal> {
        let all = self.recent.iter().chain(&self.earlier);
        let mut found: Vec<Abnormal> = all
            .filter_map(|(client, counts)| counts.abnormal(*client, &self.rules, now))
            .collect();
        found.sort_by_key(|one| (std::cmp::Reverse(one.requests), one.since));
        found.truncate(most);
        found
    }

    /// Counts a request for a guarded path and judges its client. An episode is over when the rate has fallen to half of
    /// what is normal, so that a client at the border is reported once.
    pub fn observe(&mut self, client: Option<IpAddr>, now: Instant) -> AlarmVerdict {
        self.forget(now);
        let rules = self.rules;
        let key = client.map(subscriber);
        let earlier = &mut self.earlier;
        let counts = self
            .recent
            .entry(key)
            .or_insert_with(|| earlier.remove(&key).unwrap_or(Counts::new(now)));
        counts.observe(client, &rules, now)
    }

    /// How many clients are remembered; never more than [`MAX_CLIENTS`].
    pub fn clients(&self) -> usize {
        self.recent.len() + self.earlier.len()
    }

    fn forget(&mut self, now: Instant) {
        // After two windows without a request a client's rate is zero.
        let lifetime = (2 * self.rules.window).max(self.rules.block);
        let since = *self.since.get_or_insert(now);
        if self.recent.len() >= MAX_CLIENTS / 2 || now.saturating_duration_since(since) > lifetime {
            std::mem::swap(&mut self.recent, &mut self.earlier);
            self.recent.clear();
            self.since = Some(now);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    window_start: Instant,
    previous: u32,
    current: u32,
    /// Since when it is in an episode.
    alarmed: Option<Instant>,
    last_over: Option<Instant>,
}

impl Counts {
    fn new(now: Instant) -> Self {
        Self {
            window_start: now,
            previous: 0,
            current: 0,
            alarmed: None,
            last_over: None,
        }
    }

    fn observe(&mut self, client: Option<IpAddr>, rules: &AlarmRules, now: Instant) -> AlarmVerdict {
        self.advance(rules.window, now);
        self.current = self.current.saturating_add(1);
        let rate = self.rate(rules.window, now);
        let was_alarmed = self.alarmed.is_some();
        let is_blocked = self.is_blocked(rules, now);
        let has_fallen = rate <= rules.requests / 2 && !is_blocked;
        let is_alarmed = rate > rules.requests || (was_alarmed && !has_fallen);
        self.alarmed = is_alarmed.then(|| self.alarmed.unwrap_or(now));
        if rate > rules.requests {
            self.last_over = Some(now);
        }
        match (is_alarmed, was_alarmed) {
            _ if is_blocked => AlarmVerdict::Blocked,
            (true, false) => AlarmVerdict::Raised { client, requests: rate },
            (true, true) => AlarmVerdict::Ongoing,
            (false, _) => AlarmVerdict::Quiet,
        }
    }

    /// Whether it was over its rate so lately that it is refused.
    fn is_blocked(&self, rules: &AlarmRules, now: Instant) -> bool {
        let over = self.last_over.map(|over| now.saturating_duration_since(over));
        over.is_some_and(|over| over < rules.block)
    }

    /// Its requests in the window that ends at `now`.
    fn now(&mut self, window: Duration, now: Instant) -> u32 {
        self.advance(window, now);
        self.rate(window, now)
    }

    fn abnormal(mut self, client: Key, rules: &AlarmRules, now: Instant) -> Option<Abnormal> {
        let since = self.alarmed?;
        let requests = self.now(rules.window, now);
        let blocked = self.is_blocked(rules, now);
        (blocked || requests > rules.requests / 2).then_some(Abnormal {
            client,
            requests,
            since,
            blocked,
        })
    }

    fn advance(&mut self, window: Duration, now: Instant) {
        let elapsed = now.saturating_duration_since(self.window_start);
        if elapsed >= 2 * window {
            (self.previous, self.current, self.window_start) = (0, 0, now);
        } else if elapsed >= window {
            (self.previous, self.current) = (self.current, 0);
            self.window_start += window;
        }
    }

    /// Requests in the window that ends now, those of the previous window taken as spread evenly.
    fn rate(&self, window: Duration, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.window_start);
        let left = window.saturating_sub(elapsed).as_secs_f64() / window.as_secs_f64();
        self.current.saturating_add((f64::from(self.previous) * left) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: AlarmRules = AlarmRules {
        window: Duration::from_secs(10),
        requests: 50,
        total: 200,
        block: Duration::ZERO,
    };
    const BLOCKING: AlarmRules = AlarmRules {
        block: Duration::from_secs(60),
        ..RULES
    };

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn v4(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// The verdicts on `count` requests of one client, `gap` seconds apart, the first at `start`.
    fn ask(alarm: &mut Alarm, start: Instant, count: u32, gap: f64) -> Vec<AlarmVerdict> {
        (0..count)
            .map(|i| alarm.observe(v4(1), start + seconds(gap) * i))
            .collect()
    }

    fn raised(verdicts: &[AlarmVerdict]) -> usize {
        verdicts
            .iter()
            .filter(|verdict| matches!(verdict, AlarmVerdict::Raised { .. }))
            .count()
    }

    #[test]
    fn the_request_after_the_last_normal_one_raises_the_alarm() {
        let verdicts = ask(&mut Alarm::new(RULES), Instant::now(), 52, 0.01);
        assert!(verdicts[..50].iter().all(|verdict| *verdict == AlarmVerdict::Quiet));
        assert_eq!(
            verdicts[50],
            AlarmVerdict::Raised {
                client: v4(1),
                requests: 51
            }
        );
        assert_eq!(verdicts[51], AlarmVerdict::Ongoing);
    }

    #[test]
    fn a_normal_prober_is_never_reported() {
        let verdicts = ask(&mut Alarm::new(RULES), Instant::now(), 1_000, 0.25);
        assert!(verdicts.iter().all(|verdict| *verdict == AlarmVerdict::Quiet));
    }

    #[test]
    fn a_long_episode_is_raised_once() {
        let verdicts = ask(&mut Alarm::new(RULES), Instant::now(), 5_000, 0.1);
        assert_eq!(raised(&verdicts), 1);
        assert_eq!(verdicts.last(), Some(&AlarmVerdict::Ongoing));
    }

    #[test]
    fn an_episode_that_follows_a_quiet_time_is_raised_again() {
        let (mut alarm, start) = (Alarm::new(RULES), Instant::now());
        assert_eq!(raised(&ask(&mut alarm, start, 100, 0.1)), 1);
        let quiet = ask(&mut alarm, start + seconds(15.0), 20, 1.0);
        assert_eq!(quiet.last(), Some(&AlarmVerdict::Quiet));
        assert_eq!(raised(&ask(&mut alarm, start + seconds(40.0), 100, 0.1)), 1);
    }

    #[test]
    fn a_client_at_the_border_stays_in_its_episode() {
        let (mut alarm, start) = (Alarm::new(RULES), Instant::now());
        assert_eq!(raised(&ask(&mut alarm, start, 100, 0.1)), 1);
        let border = ask(&mut alarm, start + seconds(10.0), 80, 0.25);
        assert!(
            border.iter().all(|verdict| *verdict == AlarmVerdict::Ongoing),
            "{border:?}"
        );
    }

    #[test]
    fn a_blocked_client_is_refused_until_the_block_has_passed() {
        let (mut alarm, start) = (Alarm::new(BLOCKING), Instant::now());
        let verdicts = ask(&mut alarm, start, 60, 0.0);
        assert_eq!(raised(&verdicts), 1);
        assert!(verdicts[51..].iter().all(|verdict| *verdict == AlarmVerdict::Blocked));
        assert_eq!(alarm.observe(v4(1), start + seconds(59.0)), AlarmVerdict::Blocked);
        assert_eq!(alarm.observe(v4(1), start + seconds(60.0)), AlarmVerdict::Quiet);
    }

    #[test]
    fn clients_are_counted_apart() {
        let (mut alarm, now) = (Alarm::new(RULES), Instant::now());
        assert_eq!(raised(&ask(&mut alarm, now, 100, 0.0)), 1);
        assert_eq!(alarm.observe(v4(2), now), AlarmVerdict::Quiet);
        assert_eq!(alarm.observe(None, now), AlarmVerdict::Quiet);
        assert_eq!(alarm.clients(), 3);
    }

    #[test]
    fn many_who_each_ask_as_often_as_they_may_are_too_many_together() {
        let (mut alarm, start) = (Alarm::new(RULES), Instant::now());
        let told: Vec<u32> = (0..1_000)
            .filter_map(|n| alarm.observe_total(start + seconds(0.01) * n))
            .collect();
        assert_eq!(told, [201], "said once");
        assert_eq!(alarm.total(start + seconds(9.99)), (1_000, true));
        assert_eq!(alarm.total(start + seconds(40.0)), (0, false));
        assert!(alarm.abnormal(10, start + seconds(9.99)).is_empty(), "nobody alone is");
    }

    #[test]
    fn who_is_abnormal_is_told_the_worst_first_until_it_is_over() {
        let (mut alarm, start) = (Alarm::new(BLOCKING), Instant::now());
        for (client, requests) in [(1, 60), (2, 90), (3, 10), (4, 70)] {
            for _ in 0..requests {
                alarm.observe(v4(client), start);
            }
        }
        let found = alarm.abnormal(2, start + seconds(1.0));
        let told: Vec<_> = found
            .iter()
            .map(|one| (one.client, one.requests, one.blocked))
            .collect();
        assert_eq!(told, [(v4(2), 90, true), (v4(4), 70, true)]);
        assert_eq!(alarm.abnormal(9, start + seconds(59.0)).len(), 3, "while it is refused");
        assert!(alarm.abnormal(9, start + seconds(60.0)).is_empty());
    }

    #[test]
    fn other_rules_begin_anew_and_the_same_do_not() {
        let (mut alarm, now) = (Alarm::new(RULES), Instant::now());
        ask(&mut alarm, now, 60, 0.0);
        alarm.follow(RULES);
        assert_eq!(alarm.abnormal(9, now).len(), 1);
        alarm.follow(BLOCKING);
        assert!(alarm.abnormal(9, now).is_empty());
    }

    #[test]
    fn an_ipv6_subscriber_is_one_client_and_a_mapped_address_is_its_ipv4_client() {
        let (mut alarm, now) = (Alarm::new(RULES), Instant::now());
        for address in [
            "2001:db8:0:1::1",
            "2001:db8:0:1:ffff::2",
            "192.0.2.1",
            "::ffff:192.0.2.1",
        ] {
            alarm.observe(Some(address.parse().unwrap()), now);
        }
        assert_eq!(alarm.clients(), 2);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_comes_back() {
        let (mut alarm, now) = (Alarm::new(RULES), Instant::now());
        assert_eq!(raised(&ask(&mut alarm, now, 60, 0.0)), 1);
        for stranger in 0..200_000u32 {
            alarm.observe(Some(IpAddr::from(stranger.to_be_bytes())), now);
            if stranger % 1_000 == 0 {
                assert_eq!(alarm.observe(v4(1), now), AlarmVerdict::Ongoing);
            }
            assert!(alarm.clients() <= MAX_CLIENTS);
        }
        assert!(alarm.clients() > MAX_CLIENTS / 4);
    }

    #[test]
    fn clients_that_are_gone_are_forgotten() {
        let (mut alarm, now) = (Alarm::new(RULES), Instant::now());
        for stranger in 0..1_000u32 {
            alarm.observe(Some(IpAddr::from(stranger.to_be_bytes())), now);
        }
        for minutes in 1..=2 {
            alarm.observe(v4(1), now + seconds(60.0) * minutes);
        }
        assert_eq!(alarm.clients(), 1);
    }

    #[test]
    fn a_clock_that_stands_still_or_steps_back_harms_nothing() {
        let (mut alarm, now) = (
            Alarm::new(AlarmRules {
                window: Duration::ZERO,
                ..RULES
            }),
            Instant::now(),
        );
        alarm.observe(v4(1), now + seconds(5.0));
        assert_eq!(alarm.observe(v4(1), now), AlarmVerdict::Quiet);
    }
}

#!/usr/bin/env bash
# What: the crontab line "0 0 13 * 5". cron, croniter and cron-parser run it on each 13th and on each Friday. celery's crontab() runs it on Fridays the 13th
#   alone. APScheduler's CronTrigger.from_crontab() runs it on Saturdays the 13th: it counts days of the week from Monday = 0.
# Versions: celery 5.7.0, APScheduler 3.11.3, croniter 7.0.0 (PyPI), cron-parser 5.10.6 (npm, Node 20.20.2).
# Guess that missed: what takes a crontab line reads it as crontab(5) says: either day matches, and 5 is Friday.
# For a proxy: a drain, a maintenance or a clean-up that is planned in one scheduler and muted in another by the same line falls on other days.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check celery==5.7.0 apscheduler==3.11.3 croniter==7.0.0 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" cron-parser@5.10.6 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const { CronExpressionParser } = require('cron-parser');
const times = CronExpressionParser.parse('0 0 13 * 5', { currentDate: '2026-01-01T00:00:00Z', tz: 'UTC' });
console.log([0, 1, 2, 3].map(() => times.next().toISOString().slice(0, 10)).join(' '));
JS
timeout 50 "$tmp/v/bin/python" - "$tmp/main.cjs" <<'PY'
import datetime, importlib.metadata, subprocess, sys
from apscheduler.triggers.cron import CronTrigger
from celery import Celery
from celery.schedules import crontab
from croniter import croniter

UTC = datetime.timezone.utc
START = datetime.datetime(2026, 1, 1, tzinfo=UTC)
LINE = "0 0 13 * 5"

def by_croniter():
    times = croniter(LINE, START)
    return [times.get_next(datetime.datetime) for _ in range(4)]

def by_celery():
    app = Celery(set_as_current=False)
    app.conf.timezone = "UTC"
    minute, hour, day, month, weekday = LINE.split()
    now, times = START, []
    schedule = crontab(minute, hour, day_of_month=day, month_of_year=month, day_of_week=weekday, app=app, nowfun=lambda: now)
    for _ in range(4):
        now += schedule.remaining_estimate(now)
        times.append(now)
    return times

def by_apscheduler():
    trigger, now, times = CronTrigger.from_crontab(LINE, timezone=UTC), START, []
    for _ in range(4):
        times.append(trigger.get_next_fire_time(None, now))
        now = times[-1] + datetime.timedelta(seconds=1)
    return times

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("celery", "apscheduler", "croniter")), "cron-parser 5.10.6")
print(f'guess: "{LINE}" from 2026-01-01 on: 2026-01-02 (Fri), 2026-01-09 (Fri), 2026-01-13 (Tue), 2026-01-16 (Fri) in every line')
seen = {}
for name, call in (("croniter", by_croniter), ("celery", by_celery), ("apscheduler", by_apscheduler)):
    seen[name] = [time.strftime("%Y-%m-%d (%a)") for time in call()]
    print(f"seen: {name}: {', '.join(seen[name])}")
parser = subprocess.check_output(["node", sys.argv[1]], text=True, timeout=20).strip()
print(f"seen: cron-parser: {parser}")
sys.exit([days[0] for days in seen.values()] + [parser.split()[0]] != ["2026-01-02 (Fri)", "2026-02-13 (Fri)", "2026-06-13 (Sat)", "2026-01-02"])
PY

#!/bin/sh
# A release of Dify as one closed loop: deploy the new pool, verify it, move users to it by its health, prove it by creating an app over Dify's API,
# and only then let the old pool go. For any pipeline; it needs a POSIX shell, curl (7.55 or newer) and difygate, and a way to the gate's admin API:
# run it on the gate's machine, or behind `ssh -N -L 9900:127.0.0.1:9900 gate`. It may be run again at any point.
#
#   RELEASE_NAME           what moves: the upstream or the deployment, as the gate's configuration calls it (required)
#   RELEASE_POOL           where users are to go, such as green (required)
#   RELEASE_VERSION        what every endpoint of that pool must say that it is
#   RELEASE_TIMEOUT        how long the switch may take until the old pool is empty (45m)
#   RELEASE_REASON         why, for the audit trail and the report (release and the version)
#   RELEASE_REPORT         the report goes to this file with .md and with .json (cutover-report)
#   DIFYGATE_ADMIN         the gate's admin API (http://127.0.0.1:9900)
#   DEPLOY_COMMAND         starts the new version; left out where its pool takes traffic already
#   VERIFY_URLS            what is probed before the switch, such as "http://10.0.0.21/healthz http://10.0.0.22/healthz"
#   VERIFY_SECONDS         how long those may take to become fit (300)
#   SWITCH_OPTIONS         more for `difygate switch`, such as "--steps 10%:60s,50%:5m --migration barrier"
#   RETIRE_COMMAND         removes the old pool; only after a switch that ended with 0, and an app that could be created
#
#   DIFY_URL               the gate's public address; without it no app is created
#   DIFY_EMAIL             who creates the app: an account with a password, in DIFY_PASSWORD or in the file DIFY_PASSWORD_FILE
#   DIFY_PASSWORD_FORM     base64, as Dify 1.11 and newer want it, or plain for those before (base64)
#   DIFY_ACCESS_TOKEN      instead of a login: Dify's ADMIN_API_KEY with DIFY_WORKSPACE_ID, or an access token with its DIFY_CSRF_TOKEN
#   DIFY_APP_NAME          what the app is called (release check and the version)
#   DIFY_APP_KEEP          yes: the app stays, and where there is one of that name already, none is created (no)
#   ROLLBACK_IF_APP_FAILS  yes: users go back to the old pool if no app can be created (no)
#
# It ends with 0 done, 1 failed, 2 usage, 3 a gate failed and nothing moved, 4 rolled back, 5 conflict, 6 timeout or inconclusive, 7 fleet engine
# unavailable, 8 done but streams were cut. Secrets are in no argument, which `ps` shows, in no output, and not in the environment of what it starts.
set -euf

say() { printf 'release: %s\n' "$*" >&2; }

# fail CODE TEXT
fail() {
  code=$1
  shift
  say "$*"
  exit "$code"
}

# Everything that a run leaves behind for nobody. An app that was created for a check goes too, whatever came of the check.
# shellcheck disable=SC2317 # a trap calls it
finish() {
  code=$?
  trap - EXIT
  if [ -n "$created" ] && [ "$DIFY_APP_KEEP" != yes ]; then
    remove_app || say "the app $created could not be deleted: $answered"
  fi
  rm -rf "$private"
  exit "$code"
}

settings() {
  for variable in RELEASE_NAME RELEASE_POOL; do
    eval "value=\${$variable:-}"
    [ -n "$value" ] || fail 2 "$variable is not set; the head of this script says what it is"
  done
  for program in difygate curl; do
    command -v "$program" >/dev/null || fail 2 "$program is not installed"
  done
  : "${RELEASE_VERSION:=}" "${DEPLOY_COMMAND:=}" "${VERIFY_URLS:=}" "${VERIFY_SECONDS:=300}" "${SWITCH_OPTIONS:=}" "${RELEASE_TIMEOUT:=45m}"
  : "${RELEASE_REASON:=release ${RELEASE_VERSION:-to $RELEASE_POOL}}" "${RELEASE_REPORT:=cutover-report}"
  : "${RETIRE_COMMAND:=}" "${ROLLBACK_IF_APP_FAILS:=no}"
  : "${DIFY_URL:=}" "${DIFY_EMAIL:=}" "${DIFY_PASSWORD_FORM:=base64}" "${DIFY_WORKSPACE_ID:=}" "${DIFY_APP_KEEP:=no}"
  : "${DIFY_APP_NAME:=release check ${RELEASE_VERSION:-$RELEASE_POOL}}"
  case $DIFY_APP_NAME in
    *[!A-Za-z0-9\ ._-]*) fail 2 "DIFY_APP_NAME takes letters, digits, spaces and . _ - only" ;;
  esac
  case $DIFY_PASSWORD_FORM in
    base64 | plain) ;;
    *) fail 2 "DIFY_PASSWORD_FORM is base64 or plain" ;;
  esac
  DIFY_URL=${DIFY_URL%/}
  # A report of an earlier run would be taken for that of this one.
  rm -f "$RELEASE_REPORT.md" "$RELEASE_REPORT.json"
  { true >"$RELEASE_REPORT.md"; } 2>/dev/null || fail 2 "$RELEASE_REPORT.md cannot be written"
  rm -f "$RELEASE_REPORT.md"
  export RELEASE_NAME RELEASE_POOL RELEASE_VERSION
}

# Takes the secrets out of the environment, so that nothing that is started here inherits them.
secrets() {
  password=${DIFY_PASSWORD:-} token=${DIFY_ACCESS_TOKEN:-} csrf=${DIFY_CSRF_TOKEN:-}
  unset DIFY_PASSWORD DIFY_ACCESS_TOKEN DIFY_CSRF_TOKEN
  if [ -n "${DIFY_PASSWORD_FILE:-}" ]; then
    password=$(cat "$DIFY_PASSWORD_FILE") || fail 2 "DIFY_PASSWORD_FILE cannot be read"
  fi
  [ -n "$DIFY_URL" ] || return 0
  if [ -z "$token" ] && { [ -z "$DIFY_EMAIL" ] || [ -z "$password" ]; }; then
    fail 2 "to create an app at $DIFY_URL it takes DIFY_EMAIL and DIFY_PASSWORD, or DIFY_ACCESS_TOKEN"
  fi
}

# Where the gate stands: `phase`, and `share`, the percentage of new requests that RELEASE_POOL takes.
look() {
  difygate cutover status "$RELEASE_NAME" --json >"$private/status" || fail 1 "the gate does not tell where $RELEASE_NAME stands; nothing has moved"
  phase=$(grep -o '"phase":"[a-z_]*"' "$private/status" | head -n 1 | cut -d '"' -f 4)
  share=$(grep -o '"weights":{[^}]*}' "$private/status" | head -n 1 | grep -o "\"$RELEASE_POOL\":[0-9]*" | cut -d : -f 2) || share=
  [ -n "$share" ] || fail 1 "$RELEASE_NAME has no pool $RELEASE_POOL; nothing has moved"
}

deploy() {
  if [ "$share" -gt 0 ]; then
    say "$RELEASE_POOL takes traffic already: nothing is deployed to it"
  elif [ -z "$DEPLOY_COMMAND" ]; then
    say "no DEPLOY_COMMAND: ${RELEASE_VERSION:-the new version} is taken to run in $RELEASE_POOL"
  else
    say "deploying ${RELEASE_VERSION:-the new version} to $RELEASE_POOL"
    sh -c "$DEPLOY_COMMAND" >&2 || fail 1 "DEPLOY_COMMAND ended with $?; nothing has moved"
  fi
}

# Each endpoint by one probe, as the gate would judge it. The switch verifies them once more, as the gate sees them.
verify() {
  deadline=$(($(date +%s) + VERIFY_SECONDS))
  for url in $VERIFY_URLS; do
    until difygate probe --timeout 3 "$url" >"$private/probe" 2>&1; do
      if [ "$(date +%s)" -ge "$deadline" ]; then
        cat "$private/probe" >&2
        fail 3 "$url is not fit after $VERIFY_SECONDS seconds; nothing has moved"
      fi
      sleep 2
    done
    say "$url is fit"
  done
}

# A job that is run again goes on with the cutover of its first run, by the key that difygate makes of the pipeline's number. Where that one failed or
# was rolled back, whoever runs the job again wants another: it takes a key of its own.
key() {
  case $phase in
    failed | rolled_back) printf '%s' "${CI_JOB_ID:-${GITHUB_RUN_ID:+$GITHUB_RUN_ID-${GITHUB_RUN_ATTEMPT:-1}}}" ;;
  esac
}

switch() {
  set -- "$RELEASE_NAME" --to "$RELEASE_POOL" --wait drained --timeout "$RELEASE_TIMEOUT" --reason "$RELEASE_REASON"
  [ -z "$RELEASE_VERSION" ] || set -- "$@" --expect-version "$RELEASE_VERSION"
  key=$(key)
  [ -z "$key" ] || set -- "$@" --key "$key"
  outcome=0
  # shellcheck disable=SC2086 # several options
  difygate switch "$@" $SWITCH_OPTIONS >"$RELEASE_REPORT.md" || outcome=$?
  report
  case $outcome in
    0) say "users are in $RELEASE_POOL, and the old pool is empty" ;;
    1) fail 1 "the switch failed: the lines above say why" ;;
    2) fail 2 "difygate does not take these options: see SWITCH_OPTIONS and RELEASE_TIMEOUT" ;;
    3) fail 3 "a gate failed and nothing moved: users are where they were; see $RELEASE_REPORT.md" ;;
    4) fail 4 "$RELEASE_POOL did not do well, users were taken back; see $RELEASE_REPORT.md" ;;
    5) fail 5 "another cutover of $RELEASE_NAME is under way, or was started meanwhile; see $RELEASE_REPORT.md" ;;
    6) fail 6 "not there after $RELEASE_TIMEOUT, or it waits for a person; it goes on by itself: difygate cutover status $RELEASE_NAME" ;;
    7) fail 7 "the fleet engine cannot be reached; traffic is as it was" ;;
    8) say "users are in $RELEASE_POOL, but streams of the old pool were cut at the end of its time; see $RELEASE_REPORT.md" ;;
    *) fail "$outcome" "difygate ended with $outcome" ;;
  esac
}

# What was printed is kept where the gate does not answer.
report() {
  if difygate cutover report "$RELEASE_NAME" >"$private/report"; then cat "$private/report" >"$RELEASE_REPORT.md"; fi
  if difygate cutover report "$RELEASE_NAME" --json >"$private/report"; then cat "$private/report" >"$RELEASE_REPORT.json"; fi
}

# The first text of this name in the last answer.
field() {
  tr '\n' ' ' <"$private/answer" | grep -o "\"$1\" *: *\"[^\"]*\"" | head -n 1 | sed 's/^[^:]*: *"//; s/"$//' | tr -dc '[:print:]'
}

# call METHOD PATH [more for curl]: `status` is what came, 000 for no answer at all, and `answered` says it for people.
call() {
  method=$1 url=$DIFY_URL$2
  shift 2
  : >"$private/answer"
  status=$(curl -q --silent --show-error --globoff --max-time 60 --request "$method" --header "@$private/headers" \
    --cookie "$private/cookies" --cookie-jar "$private/cookies" --output "$private/answer" --write-out '%{http_code}' "$@" "$url") || status=000
  case $status in
    000) answered="$DIFY_URL does not answer" ;;
    *) answered="$status $(field code) $(field message)" ;;
  esac
}

# A text inside a JSON string.
quoted() { printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g'; }

# Every header of the calls that follow: printf is part of the shell, so no secret becomes an argument.
headers() {
  printf 'Content-Type: application/json\nAccept: application/json\n'
  [ -z "$token" ] || printf 'Authorization: Bearer %s\n' "$token"
  [ -z "$DIFY_WORKSPACE_ID" ] || printf 'X-WORKSPACE-ID: %s\n' "$DIFY_WORKSPACE_ID"
  [ -z "$csrf" ] || printf 'X-CSRF-Token: %s\n' "$csrf"
  if [ -n "$csrf" ] && [ -n "$token" ]; then printf 'Cookie: csrf_token=%s; __Host-csrf_token=%s\n' "$csrf" "$csrf"; fi
}

# Is there a session? 0 yes, 1 it is refused, 2 nobody can tell at present.
session() {
  headers >"$private/headers"
  call GET "/console/api/apps?page=1&limit=1"
  case $status in
    200) return 0 ;;
    4??) return 1 ;;
    *) return 2 ;;
  esac
}

# Logs in, unless a token was given; ends as `session`.
log_in() {
  if [ -z "$token" ]; then
    : >"$private/cookies"
    csrf=
    headers >"$private/headers"
    case $DIFY_PASSWORD_FORM in
      base64) secret=$(printf '%s' "$password" | base64 | tr -d '\n') ;;
      plain) secret=$(quoted "$password") ;;
    esac
    printf '{"email":"%s","password":"%s","remember_me":false}' "$(quoted "$DIFY_EMAIL")" "$secret" >"$private/login"
    call POST /console/api/login --data-binary "@$private/login"
    case $status in
      200) [ "$(field result)" = success ] || return 1 ;;
      4??) return 1 ;;
      *) return 2 ;;
    esac
    # The name has a prefix where Dify is behind https.
    csrf=$(awk '$6 ~ /^(__Host-)?csrf_token$/ { print $7 }' "$private/cookies")
  fi
  session
}

# Before anything moves: who cannot log in could prove nothing afterwards. A Dify that cannot answer at present is no reason to stay there.
prepare_app() {
  [ -n "$DIFY_URL" ] || return 0
  code=0
  log_in || code=$?
  case $code in
    0) say "Dify at $DIFY_URL knows who creates the app" ;;
    1) fail 1 "Dify refuses the login or the token ($answered); nothing has moved" ;;
    *) say "nobody can log in at present ($answered); it is tried again after the switch" ;;
  esac
}

# The app could not be proved, and users are in the new pool already.
app_failed() {
  say "$*"
  [ "$ROLLBACK_IF_APP_FAILS" = yes ] || fail 1 "users are in $RELEASE_POOL; to take them back: difygate cutover rollback $RELEASE_NAME"
  difygate cutover rollback "$RELEASE_NAME" --reason "no app could be created" >&2 ||
    fail 1 "users could not be taken back; they are in $RELEASE_POOL"
  report
  fail 4 "users were taken back; see $RELEASE_REPORT.md"
}

# What was a session before the switch must be one after it, or every user has to log in again.
renew_session() {
  code=0
  session || code=$?
  [ "$code" -ne 0 ] || return 0
  log_in || app_failed "nobody can log in: $answered"
  say "the session of before the switch is over: a switch of more than an hour, or a SECRET_KEY that is another in $RELEASE_POOL"
}

list_apps() {
  call GET /console/api/apps --get --data page=1 --data limit=100 --data-urlencode "name=$DIFY_APP_NAME"
  [ "$status" = 200 ] || app_failed "apps cannot be listed: $answered"
  sed 's/": "/":"/g' "$private/answer" >"$private/apps"
}

remove_app() {
  call DELETE "/console/api/apps/$created"
  case $status in 2??) created= ;; *) return 1 ;; esac
}

check_app() {
  if [ -z "$DIFY_URL" ]; then
    say "no DIFY_URL: no app is created"
    return 0
  fi
  renew_session
  if [ "$DIFY_APP_KEEP" = yes ]; then
    list_apps
    if grep -qF "\"name\":\"$DIFY_APP_NAME\"" "$private/apps"; then
      say "there is an app called \"$DIFY_APP_NAME\" already"
      return 0
    fi
  fi
  # Never sent twice: it is not known what became of one that was not answered.
  call POST /console/api/apps --data-binary "{\"name\":\"$DIFY_APP_NAME\",\"mode\":\"chat\"}"
  [ "$status" = 201 ] || app_failed "no app can be created: $answered"
  created=$(field id)
  list_apps
  grep -qF "\"id\":\"$created\"" "$private/apps" || app_failed "the app $created was created and is not listed"
  say "the app \"$DIFY_APP_NAME\" was created over the API and is listed"
  [ "$DIFY_APP_KEEP" = yes ] || remove_app || say "the app $created could not be deleted: $answered"
}

retire() {
  if [ "$outcome" -ne 0 ]; then
    say "the old pool is left as it is, for a person to look at"
  elif [ -n "$RETIRE_COMMAND" ]; then
    say "removing the old pool"
    sh -c "$RETIRE_COMMAND" >&2 || fail 1 "RETIRE_COMMAND ended with $?; users are in $RELEASE_POOL"
  else
    say "no RETIRE_COMMAND: the old pool stays, and users can go back to it: difygate cutover rollback $RELEASE_NAME"
  fi
}

created='' answered='' code=0
settings
private=$(mktemp -d)
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
secrets
look
prepare_app
deploy
verify
switch
check_app
retire
exit "$outcome"

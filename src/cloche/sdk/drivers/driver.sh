# The driver of a context for bash: runs inside the sandbox, given a token.  See cloche/sdk/code.py.
__cloche_token=$1
shift
exec {__cloche_in}<&0 {__cloche_out}>&1 {__cloche_err}>&2 </dev/null
__cloche_run() { eval "$__cloche_code"; }
trap 'return 130 2>/dev/null' INT
printf '\036%s:ready:0\n' "$__cloche_token" >&"$__cloche_out"
while IFS= read -r -u "$__cloche_in" __cloche_length; do
    LC_ALL=C IFS= read -r -N "$__cloche_length" -u "$__cloche_in" __cloche_code
    __cloche_run
    __cloche_status=$?
    printf '\036%s:end:%d\n%s' "$__cloche_token" "${#__cloche_status}" "$__cloche_status" >&"$__cloche_err"
    printf '\036%s:end:%d\n%s' "$__cloche_token" "${#__cloche_status}" "$__cloche_status" >&"$__cloche_out"
done

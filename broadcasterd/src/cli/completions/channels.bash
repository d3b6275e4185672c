
# Names of open channels after get, listen, monitor, presence, request and send. A name is data: nothing in it is expanded.
_broadcasterd_channels() {
    _broadcasterd "$@"
    local current=${COMP_WORDS[COMP_CWORD]} name
    case ${COMP_WORDS[1]} in
        get | send | request | presence) [[ $COMP_CWORD -eq 2 ]] || return ;;
        listen | monitor) [[ $COMP_CWORD -ge 2 ]] || return ;;
        *) return ;;
    esac
    [[ $current == -* ]] && return
    COMPREPLY=()
    while IFS= read -r name; do
        [[ $name == "$current"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done < <("${COMP_WORDS[0]}" channels --names 2>/dev/null)
}
complete -F _broadcasterd_channels -o nosort -o bashdefault -o default broadcasterd


# Names of open channels after get, listen, monitor, presence, request and send. A name is data: nothing in it is expanded.
_broadcasterd_channels() {
    local -a names
    names=(${(f)"$(broadcasterd channels --names 2>/dev/null)"})
    compadd -a names
}

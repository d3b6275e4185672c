
# Names of open channels after get, listen, monitor, presence, request and send.
complete -c broadcasterd -n "__fish_seen_subcommand_from get listen monitor presence request send" -a "(broadcasterd channels --names 2>/dev/null)"

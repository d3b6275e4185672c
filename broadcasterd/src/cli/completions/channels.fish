
# Names of open channels after listen, monitor and send.
complete -c broadcasterd -n "__fish_seen_subcommand_from listen monitor send" -a "(broadcasterd channels --names 2>/dev/null)"

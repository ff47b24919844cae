# fish completion for wslmirror(8)

complete -c wslmirror -f

complete -c wslmirror -n __fish_use_subcommand -a run -d 'Run the daemon in the foreground'
complete -c wslmirror -n __fish_use_subcommand -a status -d 'Show the state'
complete -c wslmirror -n __fish_use_subcommand -a trace -d 'Follow a packet to a port'
complete -c wslmirror -n __fish_use_subcommand -a ports -d 'Show what has which port'
complete -c wslmirror -n __fish_use_subcommand -a doctor -d 'Show what is wrong, and what to type'
complete -c wslmirror -n __fish_use_subcommand -a cleanup -d 'Remove what a killed daemon left in the kernel'
complete -c wslmirror -n __fish_use_subcommand -a version -d 'Print the version'
complete -c wslmirror -n __fish_use_subcommand -a help -d 'Print a summary'
complete -c wslmirror -n __fish_use_subcommand -l version -d 'Print the version'
complete -c wslmirror -l help -d 'Print a summary'

complete -c wslmirror -n '__fish_seen_subcommand_from run' -l interface -x -a '(command ls /sys/class/net 2>/dev/null)' -d 'Where packets from Windows arrive'
complete -c wslmirror -n '__fish_seen_subcommand_from run' -l path -x -a 'proxy direct' -d 'The way to a published port'
complete -c wslmirror -n '__fish_seen_subcommand_from run' -l repair=false -d 'Repair nothing for Linux, restore nothing of WSL'
complete -c wslmirror -n '__fish_seen_subcommand_from run' -l to-windows -x -d 'Let containers reach these ports of Windows'
complete -c wslmirror -n '__fish_seen_subcommand_from run' -l except -x -d 'Leave these ports alone'
complete -c wslmirror -n '__fish_seen_subcommand_from run' -l log-level -x -a 'error warning info debug' -d 'Least important messages to log'
complete -c wslmirror -n '__fish_seen_subcommand_from run status ports doctor' -l runtime-dir -x -a '(__fish_complete_directories)' -d 'Directory of the state'
complete -c wslmirror -n '__fish_seen_subcommand_from status trace ports doctor' -l json -d 'Write JSON'
complete -c wslmirror -n '__fish_seen_subcommand_from trace' -l from -x -a 'windows linux lan container:' -d 'Where the packet starts'
complete -c wslmirror -n '__fish_seen_subcommand_from doctor' -l bundle -r -F -d 'Write a new file for a bug report'
complete -c wslmirror -n '__fish_seen_subcommand_from ports; and not __fish_seen_subcommand_from explain' -a explain -d 'Who has a port, or why it cannot be had'

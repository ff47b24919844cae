#compdef wslmirror
# zsh completion for wslmirror(8)

local -a verbs
verbs=(
	'run:run the daemon in the foreground'
	'hold:hold published ports that have no socket'
	'status:show the state'
	'trace:follow a packet to a port'
	'ports:list ports and who uses them'
	'doctor:find faults, and show what to type'
	'log:show what the daemon has done'
	'cleanup:remove what a crashed daemon has left in the kernel'
	'version:print the version'
	'help:print the usage'
)

if (( CURRENT == 2 )); then
	_describe -t commands command verbs
	_arguments '(- *)--version[print the version]' '(- *)--help[print the usage]'
	return
fi

local verb=$words[2]
shift words
(( CURRENT-- ))
case $verb in
run)
	_arguments \
		'--interface=[where packets from Windows arrive]:interface:_net_interfaces' \
		'--path=[the path to a published port]:path:(proxy direct)' \
		'--repair=false[turn the repairs off]' \
		'--to-windows=[let containers reach these ports on Windows]:ports: ' \
		'--except=[leave these ports alone]:ports: ' \
		'--user=[the user that the daemon runs as]:user:_users' \
		'--runtime-dir=[directory of the published state]:directory:_directories' \
		'--log-level=[lowest level of messages to log]:level:(error warning info debug)' \
		'(- *)--help[print the usage]'
	;;
hold)
	_arguments \
		'--runtime-dir=[directory of the published state]:directory:_directories' \
		'--log-level=[lowest level of messages to log]:level:(error warning info debug)' \
		'(- *)--help[print the usage]'
	;;
status)
	_arguments \
		'--watch[keep running and show each change]' \
		'--json[write JSON]' \
		'--runtime-dir=[directory of the published state]:directory:_directories' \
		'(- *)--help[print the usage]'
	;;
trace)
	_arguments \
		'--from[where the packet starts]:client:(windows linux lan container\:)' \
		'--live[also count real packets]' \
		'--json[write JSON]' \
		'(- *)--help[print the usage]' \
		'1:port:'
	;;
ports)
	local -a published
	case $words[2] in
	explain) published=(${(f)"$(wslmirror status --json 2>/dev/null | command sed -n 's/^ *"port": \([0-9]*\),*$/\1/p')"}) ;;
	esac
	_arguments \
		'--json[write JSON]' \
		'--from=[the first port to try]:port: ' \
		'--runtime-dir=[directory of the published state]:directory:_directories' \
		'(- *)--help[print the usage]' \
		'1:word:((explain\:"who uses a port, or why it cannot be used" free\:"the next free ports"))' \
		"2:port:($published)"
	;;
doctor)
	_arguments \
		'(--bundle)--json[write JSON]' \
		'(--json)--bundle=[write a new file for a bug report]:new file: ' \
		'--runtime-dir=[directory of the published state]:directory:_directories' \
		'(- *)--help[print the usage]'
	;;
log)
	_arguments \
		'--since=[start at this time]:time:(10m 1h today yesterday)' \
		'-f[keep running and show new lines]' \
		'(- *)--help[print the usage]'
	;;
help)
	_describe -t commands command verbs
	;;
cleanup)
	_arguments '(- *)--help[print the usage]'
	;;
esac

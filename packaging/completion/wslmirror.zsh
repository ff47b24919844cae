#compdef wslmirror
# zsh completion for wslmirror(8)

local -a verbs
verbs=(
	'run:run the daemon in the foreground'
	'hold:hold ports that nobody holds'
	'status:show the state'
	'trace:follow a packet to a port'
	'ports:show what has which port'
	'doctor:show what is wrong, and what to type'
	'log:show what the daemon has done'
	'cleanup:remove what a killed daemon left in the kernel'
	'version:print the version'
	'help:print a summary'
)

if (( CURRENT == 2 )); then
	_describe -t commands command verbs
	_arguments '(- *)--version[print the version]' '(- *)--help[print a summary]'
	return
fi

local verb=$words[2]
shift words
(( CURRENT-- ))
case $verb in
run)
	_arguments \
		'--interface=[where packets from Windows arrive]:interface:_net_interfaces' \
		'--path=[the way to a published port]:path:(proxy direct)' \
		'--repair=false[repair nothing for Linux, restore nothing of WSL]' \
		'--to-windows=[let containers reach these ports of Windows]:ports: ' \
		'--except=[leave these ports alone]:ports: ' \
		'--user=[the user that the daemon becomes]:user:_users' \
		'--runtime-dir=[directory of the state]:directory:_directories' \
		'--log-level=[least important messages to log]:level:(error warning info debug)' \
		'(- *)--help[print a summary]'
	;;
hold)
	_arguments \
		'--runtime-dir=[directory of the state]:directory:_directories' \
		'--log-level=[least important messages to log]:level:(error warning info debug)' \
		'(- *)--help[print a summary]'
	;;
status)
	_arguments \
		'--watch[go on, and show what changes]' \
		'--json[write JSON]' \
		'--runtime-dir=[directory of the state]:directory:_directories' \
		'(- *)--help[print a summary]'
	;;
trace)
	_arguments \
		'--from[where the packet starts]:client:(windows linux lan container\:)' \
		'--live[count real packets, too]' \
		'--json[write JSON]' \
		'(- *)--help[print a summary]' \
		'1:port:'
	;;
ports)
	local -a published
	case $words[2] in
	explain) published=(${(f)"$(wslmirror status --json 2>/dev/null | command sed -n 's/^ *"port": \([0-9]*\),*$/\1/p')"}) ;;
	esac
	_arguments \
		'--json[write JSON]' \
		'--from=[where free begins]:port: ' \
		'--runtime-dir=[directory of the state]:directory:_directories' \
		'(- *)--help[print a summary]' \
		'1:word:((explain\:"who has a port, or why it cannot be had" free\:"the next free ports"))' \
		"2:port:($published)"
	;;
doctor)
	_arguments \
		'(--bundle)--json[write JSON]' \
		'(--json)--bundle=[write a new file for a bug report]:new file: ' \
		'--runtime-dir=[directory of the state]:directory:_directories' \
		'(- *)--help[print a summary]'
	;;
log)
	_arguments \
		'--since=[from when on]:time:(10m 1h today yesterday)' \
		'-f[go on, and show what comes]' \
		'(- *)--help[print a summary]'
	;;
help)
	_describe -t commands command verbs
	;;
cleanup)
	_arguments '(- *)--help[print a summary]'
	;;
esac

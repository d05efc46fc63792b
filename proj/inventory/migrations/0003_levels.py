"""The rows of the engine that works on levels. Nothing that was open in the old one is needed."""

import datetime
import django.core.validators
import django.db.models.deletion
import proj.inventory.models
import uuid
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('inventory', '0002_count_of_a_pass'),
    ]

    operations = [
        migrations.RunSQL('DELETE FROM inventory_job', migrations.RunSQL.noop),
        migrations.RemoveField(
            model_name='transition',
            name='pass_of',
        ),
        migrations.DeleteModel(
            name='Query',
        ),
        migrations.DeleteModel(
            name='Pass',
        ),
        migrations.CreateModel(
            name='Hold',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('digest', models.CharField(help_text='names exactly these entries', max_length=64)),
                ('entries', models.JSONField(help_text='[key, name, from, to] of each instance')),
                ('reason', models.TextField()),
                ('epoch', models.PositiveIntegerField(default=0)),
                ('since', models.DateTimeField()),
                ('seen_at', models.DateTimeField(help_text='when a look last found just this')),
                ('current', models.BooleanField(default=True, help_text='the last look found it')),
                ('approved_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='Installation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('generation', models.CharField(default=proj.inventory.models.new_generation, help_text='another after a restore from a backup', max_length=32)),
            ],
        ),
        migrations.CreateModel(
            name='Question',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('uuid', models.CharField(blank=True, max_length=36, null=True)),
                ('name', models.CharField(help_text='to be asked for', max_length=255)),
                ('priority', models.PositiveSmallIntegerField(choices=[(0, 'On Demand'), (1, 'Suspect'), (2, 'Audit')])),
                ('epoch', models.PositiveIntegerField(default=0)),
                ('wanted_since', models.DateTimeField()),
                ('newer_than', models.DateTimeField(help_text='evidence that began before does not satisfy it')),
                ('listed', models.JSONField(blank=True, help_text='what lists say of one that is not recorded, since when', null=True)),
                ('token', models.CharField(blank=True, help_text='of who has claimed it', max_length=16)),
                ('claimed_at', models.DateTimeField(blank=True, null=True)),
                ('job_id', models.BigIntegerField(blank=True, null=True)),
                ('answer', models.JSONField(blank=True, help_text='evidence that waits for SETTLE', null=True)),
                ('attempts', models.PositiveIntegerField(default=0)),
                ('retry_at', models.DateTimeField(blank=True, null=True)),
                ('overridden_at', models.DateTimeField(blank=True, help_text='when somebody last had it asked before its time', null=True)),
                ('error', models.TextField(blank=True, help_text='why the last attempt brought no evidence')),
            ],
            options={
                'ordering': ('priority', 'attempts', 'wanted_since', 'id'),
            },
        ),
        migrations.CreateModel(
            name='Request',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(choices=[('sweep', 'Sweep'), ('all', 'All'), ('instance', 'Instance'), ('plan', 'Plan')], max_length=10)),
                ('name', models.CharField(blank=True, help_text='one instance, or all', max_length=255)),
                ('uuid', models.CharField(blank=True, max_length=36, null=True)),
                ('state', models.CharField(choices=[('open', 'Open'), ('closed', 'Closed')], default='open', max_length=10)),
                ('outcome', models.CharField(blank=True, choices=[('in_sync', 'In Sync'), ('reconciled', 'Reconciled'), ('failed', 'Failed'), ('held', 'Held')], max_length=10)),
                ('epoch', models.PositiveIntegerField(default=0)),
                ('requested_at', models.DateTimeField(help_text='only evidence that began after it confirms')),
                ('scoped_at', models.DateTimeField(blank=True, help_text='end of the first complete list after it', null=True)),
                ('absent_at', models.DateTimeField(blank=True, help_text='begin of the evidence that nobody has this name', null=True)),
                ('blocked_since', models.DateTimeField(blank=True, help_text='since when nothing that is left can be confirmed', null=True)),
                ('closed_at', models.DateTimeField(blank=True, null=True)),
                ('listed', models.PositiveIntegerField(default=0)),
                ('suspects', models.PositiveIntegerField(default=0)),
                ('queried', models.PositiveIntegerField(default=0, help_text='confirmed by a query job')),
                ('unconfirmed', models.JSONField(default=list, help_text='which instances were not, and why')),
                ('planned', models.JSONField(default=list, help_text='the changes of a plan')),
                ('first_transition', models.BigIntegerField(default=0, help_text='the last one before it')),
                ('last_transition', models.BigIntegerField(blank=True, null=True)),
                ('error', models.TextField(blank=True)),
            ],
            options={
                'ordering': ('-id',),
            },
        ),
        migrations.RemoveConstraint(
            model_name='instance',
            name='instance_once_per_cluster',
        ),
        migrations.RemoveConstraint(
            model_name='instance',
            name='instance_status_is_of_the_api',
        ),
        migrations.RemoveConstraint(
            model_name='job',
            name='job_once_per_cluster',
        ),
        migrations.RemoveField(
            model_name='cluster',
            name='followed_not_before',
        ),
        migrations.RemoveField(
            model_name='cluster',
            name='query_failures',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='ask_after',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='ask_failures',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='operation',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='operation_end',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='operation_ended_at',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='operation_job_id',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='operation_since',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='version',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='witness_not_after',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='witness_not_before',
        ),
        migrations.RemoveField(
            model_name='instance',
            name='witness_word',
        ),
        migrations.RemoveField(
            model_name='job',
            name='has_ended',
        ),
        migrations.RemoveField(
            model_name='job',
            name='seen_at',
        ),
        migrations.RemoveField(
            model_name='job',
            name='told',
        ),
        migrations.AddField(
            model_name='cluster',
            name='ask_failures',
            field=models.PositiveIntegerField(default=0, help_text='steps that failed in a row'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='asked',
            field=models.BigIntegerField(default=0, help_text='jobs issued: gives each priority a share'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='asked_at',
            field=models.DateTimeField(blank=True, help_text='when a step last succeeded', null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='audit_at',
            field=models.DateTimeField(blank=True, help_text='when they were counted', null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='audit_tokens',
            field=models.FloatField(default=0, help_text='jobs that the audit may spend now'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='await_token',
            field=models.CharField(blank=True, max_length=16),
        ),
        migrations.AddField(
            model_name='cluster',
            name='epoch',
            field=models.PositiveIntegerField(default=0, help_text='raised when the clock jumps or the database is another'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='feed_gap_since',
            field=models.DateTimeField(blank=True, help_text='since when the job after that is missing', null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='feeds',
            field=models.PositiveIntegerField(default=0, help_text='each tenth reads all open jobs'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='findings',
            field=models.JSONField(blank=True, default=list, help_text='what the last list had that cannot be read or is not known to us'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='follow_token',
            field=models.CharField(blank=True, max_length=16),
        ),
        migrations.AddField(
            model_name='cluster',
            name='generation',
            field=models.CharField(blank=True, help_text='of the database, as known', max_length=32),
        ),
        migrations.AddField(
            model_name='cluster',
            name='listed',
            field=models.PositiveIntegerField(default=0, help_text='records of the last list'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='look_token',
            field=models.CharField(blank=True, max_length=16),
        ),
        migrations.AddField(
            model_name='cluster',
            name='looks',
            field=models.PositiveIntegerField(default=0, help_text='each tenth compares in full'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='moment',
            field=models.DateTimeField(blank=True, help_text='of the last turn of any kind', null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='next_ask_at',
            field=models.DateTimeField(blank=True, help_text='backoff of the steps', null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='read_not_after',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='read_not_before',
            field=models.DateTimeField(blank=True, help_text='when the last reading of the queue was asked for', null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='set_aside',
            field=models.BigIntegerField(default=0, help_text='items that could not be read or written, and were forgotten'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='settled_at',
            field=models.DateTimeField(blank=True, help_text='when an answer last was', null=True),
        ),
        migrations.AddField(
            model_name='cluster',
            name='unreadable_jobs',
            field=models.PositiveIntegerField(default=0, help_text='of the last reading'),
        ),
        migrations.AddField(
            model_name='cluster',
            name='version',
            field=models.BigIntegerField(default=1, help_text='counts the turns'),
        ),
        migrations.AddField(
            model_name='instance',
            name='api_id',
            field=models.UUIDField(db_index=True, default=uuid.uuid4, help_text="what the API calls it: Ganeti's uuid, or, where it had none, its own for ever"),
        ),
        migrations.AddField(
            model_name='instance',
            name='audited_at',
            field=models.DateTimeField(blank=True, help_text='when it last had its turn, answered or not', null=True),
        ),
        migrations.AddField(
            model_name='instance',
            name='created_at',
            field=models.DateTimeField(default=datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc), help_text='when it was first recorded'),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='instance',
            name='differs',
            field=models.JSONField(blank=True, default=dict, help_text='what the last lists said where it is not as recorded'),
        ),
        migrations.AddField(
            model_name='instance',
            name='differs_since',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='instance',
            name='epoch',
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='instance',
            name='stale_before',
            field=models.DateTimeField(blank=True, help_text='a job on it ended then: what was read before is void', null=True),
        ),
        migrations.AddField(
            model_name='instance',
            name='tags',
            field=models.JSONField(blank=True, help_text='told by lists only', null=True),
        ),
        migrations.AddField(
            model_name='instance',
            name='uuid',
            field=models.CharField(blank=True, max_length=36, null=True),
        ),
        migrations.AddField(
            model_name='job',
            name='announced',
            field=models.BooleanField(default=False, help_text='by a host system, and not seen yet'),
        ),
        migrations.AddField(
            model_name='job',
            name='epoch',
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='job',
            name='is_ours',
            field=models.BooleanField(default=False, help_text='it holds a seat until it has ended'),
        ),
        migrations.AddField(
            model_name='job',
            name='names',
            field=models.JSONField(default=list, help_text='every name that it ever was seen with'),
        ),
        migrations.AddField(
            model_name='job',
            name='running_since',
            field=models.DateTimeField(blank=True, help_text='end of the reading that first showed it running', null=True),
        ),
        migrations.AddField(
            model_name='job',
            name='seen_first',
            field=models.DateTimeField(default=datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc), help_text='end of the reading that first showed it'),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='job',
            name='seen_last',
            field=models.DateTimeField(default=datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc), help_text='begin of the last reading that showed it'),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='job',
            name='state',
            field=models.CharField(default='', max_length=10),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='job',
            name='uuids',
            field=models.JSONField(default=list, help_text='of the instances that bore them'),
        ),
        migrations.AlterField(
            model_name='cluster',
            name='agreed_digest',
            field=models.CharField(blank=True, help_text='of the last list that agreed with every row', max_length=64),
        ),
        migrations.AlterField(
            model_name='cluster',
            name='agreed_revisions',
            field=models.BigIntegerField(default=0, help_text='of the rows, when it did'),
        ),
        migrations.AlterField(
            model_name='cluster',
            name='feed_after',
            field=models.BigIntegerField(blank=True, help_text='every job up to this one has been seen', null=True),
        ),
        migrations.AlterField(
            model_name='cluster',
            name='follow_failures',
            field=models.PositiveIntegerField(default=0, help_text='readings that failed'),
        ),
        migrations.AlterField(
            model_name='cluster',
            name='looked_not_before',
            field=models.DateTimeField(blank=True, help_text='when the last complete list was asked for', null=True),
        ),
        migrations.AlterField(
            model_name='cluster',
            name='name',
            field=models.CharField(max_length=100, unique=True, validators=[django.core.validators.RegexValidator('^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$')]),
        ),
        migrations.AlterField(
            model_name='instance',
            name='backend_status',
            field=models.CharField(blank=True, help_text="Ganeti's word; none for one that it never showed", max_length=50),
        ),
        migrations.AlterField(
            model_name='instance',
            name='confirmed_at',
            field=models.DateTimeField(blank=True, help_text='begin of the last answer of a query job about it', null=True),
        ),
        migrations.AlterField(
            model_name='instance',
            name='missing_first',
            field=models.DateTimeField(blank=True, help_text='when the first list that lacked it was asked for', null=True),
        ),
        migrations.AlterField(
            model_name='instance',
            name='missing_last',
            field=models.DateTimeField(blank=True, help_text='when the last one was', null=True),
        ),
        migrations.AlterField(
            model_name='instance',
            name='status',
            field=models.CharField(choices=[('ACTIVE', 'ACTIVE'), ('BUILD', 'BUILD'), ('DELETED', 'DELETED'), ('ERROR', 'ERROR'), ('HARD_REBOOT', 'HARD_REBOOT'), ('REBOOT', 'REBOOT'), ('REBUILD', 'REBUILD'), ('RESIZE', 'RESIZE'), ('STOPPED', 'STOPPED'), ('UNKNOWN', 'UNKNOWN')], max_length=12),
        ),
        migrations.AlterField(
            model_name='job',
            name='job_id',
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name='job',
            name='work',
            field=models.JSONField(default=list, help_text='triples of instance, operation and status, as last read'),
        ),
        migrations.AddIndex(
            model_name='instance',
            index=models.Index(fields=['cluster', 'name'], name='instance_by_name'),
        ),
        migrations.AddIndex(
            model_name='instance',
            index=models.Index(fields=['cluster', 'audited_at'], name='instance_oldest_audited'),
        ),
        migrations.AddIndex(
            model_name='instance',
            index=models.Index(condition=models.Q(('differs_since__isnull', False), ('missing_first__isnull', False), _connector='OR'), fields=['cluster'], name='instance_that_differs'),
        ),
        migrations.AddIndex(
            model_name='transition',
            index=models.Index(fields=['at'], name='transition_by_time'),
        ),
        migrations.AddConstraint(
            model_name='instance',
            constraint=models.UniqueConstraint(models.F('cluster'), models.F('uuid'), name='instance_once_per_cluster'),
        ),
        migrations.AddConstraint(
            model_name='instance',
            constraint=models.UniqueConstraint(condition=models.Q(('uuid', None), models.Q(('status', 'DELETED'), _negated=True)), fields=('cluster', 'name'), name='instance_without_uuid_once_per_name'),
        ),
        migrations.AddConstraint(
            model_name='instance',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['ACTIVE', 'BUILD', 'DELETED', 'ERROR', 'HARD_REBOOT', 'REBOOT', 'REBUILD', 'RESIZE', 'STOPPED', 'UNKNOWN'])), name='instance_status_is_of_the_api'),
        ),
        migrations.AddConstraint(
            model_name='job',
            constraint=models.UniqueConstraint(models.F('cluster'), models.F('job_id'), name='job_once_per_cluster'),
        ),
        migrations.AddField(
            model_name='hold',
            name='cluster',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='holds', to='inventory.cluster'),
        ),
        migrations.AddField(
            model_name='question',
            name='cluster',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='questions', to='inventory.cluster'),
        ),
        migrations.AddField(
            model_name='request',
            name='cluster',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='requests', to='inventory.cluster'),
        ),
        migrations.AddConstraint(
            model_name='hold',
            constraint=models.UniqueConstraint(models.F('cluster'), models.F('digest'), name='hold_once_per_content'),
        ),
        migrations.AddIndex(
            model_name='question',
            index=models.Index(fields=['cluster', 'priority', 'attempts', 'wanted_since'], name='question_order'),
        ),
        migrations.AddIndex(
            model_name='question',
            index=models.Index(fields=['cluster', 'job_id'], name='question_of_job'),
        ),
        migrations.AddConstraint(
            model_name='question',
            constraint=models.UniqueConstraint(models.F('cluster'), models.F('uuid'), name='question_once_per_uuid'),
        ),
        migrations.AddConstraint(
            model_name='question',
            constraint=models.UniqueConstraint(condition=models.Q(('uuid', None)), fields=('cluster', 'name'), name='question_once_per_name'),
        ),
        migrations.AddIndex(
            model_name='request',
            index=models.Index(models.F('cluster'), models.F('state'), name='request_of_cluster_by_state'),
        ),
        migrations.AddConstraint(
            model_name='request',
            constraint=models.CheckConstraint(condition=models.Q(('state', 'closed'), ('outcome', ''), _connector='XOR'), name='request_closed_has_outcome'),
        ),
    ]
